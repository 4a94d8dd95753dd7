"""Guidance by the gradient of a classifier, or of any log-density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..sampling.rule import Call, Point, Rule
from . import scales
from .combination import change, vector
from .scales import Scale
from .windowed import Windowed


@dataclass(frozen=True)
class Gradient:
    """The gradient of log p(y | x_t), as a call (x, t, **kwargs) -> [B, ...].

    log_prob: (x, t, **kwargs) -> [B], differentiable, each sample's from its own x; it is given what the model is.
    Raises ValueError where it returns another shape.
    """

    log_prob: Callable[..., Tensor]
    of_whole_samples: ClassVar[bool] = True  # no process has the gradient of its part from its part alone

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_prob = self.log_prob(x, t, **kwargs)
            if not isinstance(log_prob, Tensor) or log_prob.shape != x.shape[:1]:
                found = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else type(log_prob).__name__
                raise ValueError(f"log_prob: expected one number for each of the {len(x)} samples, got {found}")
            (gradient,) = torch.autograd.grad(log_prob.sum(), x)
        return gradient


@dataclass(frozen=True, eq=False, repr=False)
class ClassifierGuidance(Windowed):
    """Classifier guidance (Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", Algorithm 2):

        eps <- eps - s sigma grad log p(y | x_t),   that is   x0 <- x0 + s (sigma^2 / alpha) grad log p(y | x_t)

    with the gradient with respect to x_t, whatever the model predicts.

    scale: s, a number, [B] numbers or a function of the point. gradient: a call (x, t, **kwargs) -> the gradient with
        respect to what it is given, which is what the model is given; `Gradient` makes one of a log-density. The scale
        of the model's input is accounted for.
    interval: as for `CFG`; no gradient is taken outside of it. Raises ValueError naming the argument.
    """

    scale: Scale
    gradient: Call = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale))
        if not callable(self.gradient):
            raise ValueError(f"gradient: expected a function (x, t, **kwargs), got {type(self.gradient).__name__}")

    @property
    def extra(self) -> tuple[Call, ...]:
        """The gradient."""
        return (self.gradient,)

    @property
    def needs_uncond(self) -> bool:
        """Never."""
        return False

    def inside(self, point: Point) -> Rule:
        """The rule: constant weights."""
        s = np.asarray(scales.at(self.scale, point))
        p_m = point.to_x0[1]
        if not s.any() or p_m == 0:
            return Rule()
        if point.alpha == 0:
            raise ValueError("scale: at alpha = 0 a classifier's gradient moves x0 without bound; use an interval")
        c_in = 1.0 if point.row is None else point.row.c_in
        weight = point.sigma**2 / (point.alpha * p_m) * c_in
        return change((0, None, 2), [vector(second=weight)], [s])

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where the scales are not one for each sample."""
        scales.check_batch("scale", self.scale, shape[0])

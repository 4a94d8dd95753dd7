"""Measurements y = A x0 + n: what corrections ask of an observation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..ops import checks
from ..sampling.corrected import capturing
from .likelihood import ByFunction, Gaussian, Likelihood
from .linearised import Linearised
from .noise_model import noise_of
from .operators import Function, check_adjoint, operator_of, real

Kind = TypeVar("Kind", bound="Measurements")


class Measurements:
    """`fastdiff.Observation` without the names of corrections.

    y: [B, ...] real; of complex measurements the pairs [B, ..., 2]. operator: A. likelihood: log p(y | A x0).
    """

    def __init__(
        self,
        A: Any,
        y: Tensor,
        noise: float | Tensor | Likelihood | Callable[[Tensor, Tensor], Tensor] | None = None,
        adjoint: Function | None = None,
        pinv: Function | None = None,
    ) -> None:
        checks.require_tensor("y", y)
        if y.ndim < 1 or not (y.is_floating_point() or y.is_complex()):
            raise ValueError(f"y: expected floating-point numbers [B, ...], got {y.dtype} of shape {tuple(y.shape)}")
        if not y.isfinite().all():
            raise ValueError("y: expected finite numbers")
        self._shape, self._complex, self._checked = tuple(y.shape), y.is_complex(), False
        self.y = real(y.detach())
        self.operator = operator_of(A, adjoint, pinv, self._complex)
        self.likelihood = _likelihood(noise_of(A) if noise is None else noise, self.y, self._complex)
        if self.operator.adjoint is not None and not isinstance(A, Tensor):
            with torch.no_grad():
                check_adjoint(self.operator, self.y)

    def __repr__(self) -> str:
        kind = self.likelihood
        noise = f"Gaussian noise {kind.std:g}" if isinstance(kind, Gaussian) and isinstance(kind.std, float) else None
        return f"<Observation of shape {list(self._shape)}, {noise or type(kind).__name__}>"

    @property
    def gaussian(self) -> bool:
        """Whether the noise is Gaussian."""
        return isinstance(self.likelihood, Gaussian)

    @property
    def std(self) -> float | None:
        """The standard deviation of Gaussian noise that is one number for all; else None."""
        std = self.likelihood.std if isinstance(self.likelihood, Gaussian) else None
        return std if isinstance(std, float) else None

    def over(self: Kind, like: Tensor) -> Kind:
        """The observation for samples like x [B, ...]: on its device, in its dtype, with a measurement for each.

        Measurements of particles lie side by side. Raises ValueError where their number does not divide the batch.
        """
        count, batch = self._shape[0], len(like)
        if batch != count and (count == 0 or batch % count):
            raise ValueError(f"observation: {count} measurements do not go with a batch of {batch} samples")

        def spread(v: Tensor) -> Tensor:
            several = v.ndim == self.y.ndim and len(v) == count
            return (v.repeat_interleave(batch // max(count, 1), 0) if several else v).to(like)

        whole = copy.copy(self)
        whole._checked = False
        whole._shape = (batch, *self._shape[1:])
        whole.y = spread(self.y)
        std = getattr(self.likelihood, "std", None)
        if isinstance(std, Tensor):
            whole.likelihood = Gaussian(spread(std))
        return whole

    def measured(self, x0: Tensor) -> Tensor:
        """y [B, ...] for x0 [B, ...]."""
        y = self.y.to(x0)
        if len(y) != len(x0):
            raise ValueError(f"observation: {len(y)} measurements do not go with a batch of {len(x0)} samples")
        return y

    def linearised(self, x0: Tensor) -> Linearised:
        """A about x0 [B, ...]: A x0 + J dx. Its first value is checked as `check` does."""
        check = None if self._checked or capturing(x0) else self._check
        return Linearised(self.operator, x0, self.measured(x0), self.likelihood, check)

    def check(self, denoised: Tensor) -> None:
        """Raises ValueError where A, on the first D [B, ...], gives no finite real tensor of y's shape."""
        self._check(self.operator(denoised), self.measured(denoised))

    def _check(self, there: Tensor, y: Tensor) -> None:
        self._checked = True
        checks.require_tensor("A", there)
        if there.is_complex() != self._complex and there.shape[:-1] == y.shape:
            raise ValueError("y: expected complex numbers, as A gives")
        if there.shape != y.shape:
            kinds = "complex (pairs) against " if there.ndim != y.ndim else ""
            raise ValueError(f"A: expected a result of shape {tuple(y.shape)}, {kinds}got {tuple(there.shape)}")
        if not there.isfinite().all():
            raise ValueError("A: expected finite numbers, got NaN or infinity for the first D")

    def log_likelihood(self, x0: Tensor) -> Tensor:
        """[B] log p(y | x0), float64."""
        return self.likelihood.log_prob(self.operator(x0).double(), self.measured(x0).double())

    def deviations(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """[B, ...] ((y - A x0) / noise)^2, whose expectation is 1 at the true x0; and [B, ...] which ones count.

        For other noise than Gaussian it is slope^2 / information of log p, of the same expectation. Measurements that
        are 0 on both sides, as masks leave them, say nothing and do not count.
        """
        there, y = self.operator(x0), self.measured(x0)
        information = self.likelihood.information(there, y)
        counted = (information > 0) & ((y != 0) | (there != 0))
        squares = self.likelihood.slope(there, y).square() / information
        return torch.where(counted, squares, 0.0), counted

    def misfit(self, x0: Tensor) -> Tensor:
        """[B] the mean over measurements of ((y - A x0) / noise)^2: about 1 at the true x0 (`deviations`)."""
        squares, counted = self.deviations(x0)
        return squares.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


def _likelihood(noise: object, y: Tensor, complex: bool) -> Likelihood:
    """The likelihood that `noise` stands for. Raises TypeError or ValueError naming it."""
    if noise is None:
        raise ValueError("noise: expected the standard deviation of the measurements, got None")
    if isinstance(noise, Likelihood):
        return noise
    if isinstance(noise, Tensor):
        std = noise.detach()
        if not std.isfinite().all() or (std <= 0).any():
            raise ValueError("noise: expected finite numbers > 0")
        if std.numel() == 1:
            return Gaussian(float(std))
        shape = y.shape[:-1] if complex else y.shape
        if std.shape == shape[:1] and len(shape) > 1:
            std = std.view(-1, *[1] * (len(shape) - 1))
        sizes = zip(reversed(std.shape), reversed(shape), strict=False)
        if std.ndim > len(shape) or any(mine not in (1, size) for mine, size in sizes):
            raise ValueError(f"noise: expected a shape that goes with y's {tuple(shape)}, got {tuple(noise.shape)}")
        return Gaussian(std.unsqueeze(-1) if complex else std)
    if callable(noise):
        return ByFunction(noise)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)):
        raise TypeError(f"noise: expected a number, a tensor or a likelihood, got {type(noise).__name__}")
    if not math.isfinite(noise) or noise <= 0:
        raise ValueError(f"noise: expected a finite number > 0, got {noise}; for exact measurements give a small one")
    return Gaussian(float(noise))

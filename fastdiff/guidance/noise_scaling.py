"""Epsilon scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..sampling.rule import Point, Rule
from . import scales
from .combination import Vector, change, vector
from .scales import Scale, check_number
from .spaces import to_space
from .windowed import Windowed


@dataclass(frozen=True, repr=False)
class NoiseScaling(Windowed):
    """Epsilon scaling (Ning et al. 2024, "Elucidating the exposure bias in diffusion models"):

        eps <- eps / k

    after CFG, whatever the model predicts. Samplers meet x with more error than training did, and a network overstates
    the noise there.

    factor: k; 1.005 is ComfyUI's default, and the paper's are of that size. scale: g of CFG, as for `CFG`; 1 for none.
    interval: as for `CFG`, of k and g. Where the noise does not depend on the output (alpha = 0), it is not scaled.
    Raises ValueError naming the argument.
    """

    factor: float = 1.005
    scale: Scale = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_number("factor", self.factor) <= 0:
            raise ValueError(f"factor: expected a positive number, got {self.factor}")
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale))

    @property
    def needs_uncond(self) -> bool:
        """False without CFG."""
        return callable(self.scale) or not scales.is_one(self.scale)  # type: ignore[arg-type]

    def inside(self, point: Point) -> Rule:
        """The rule: constant weights."""
        scale = scales.at(self.scale, point)
        p_x, p_m = to_space(point, "noise")
        inverse = 1 / self.factor if p_m else 1.0
        vectors: list[Vector] = [vector(inverse - 1, x=(inverse - 1) * p_x / p_m if p_m else 0.0)]
        if scales.is_one(scale):
            return change((0,), vectors, [1.0])
        return change((0, 1), [*vectors, vector(inverse, -inverse)], [1.0, np.asarray(scale) - 1])

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where the scales are not one for each sample."""
        scales.check_batch("scale", self.scale, shape[0])

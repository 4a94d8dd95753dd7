"""Proximal corrections: data whose errors are independent and of one size at each noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..sampling.correction import Evaluation
from .gaussian import gain
from .measurements import Measurements
from .method import Method, positive, whole


@dataclass(frozen=True, eq=False)
class Proximal(Method):
    """D' = argmin |y - A x|^2 / noise^2 + |x - D|^2 / r^2, or so many steps towards it.

    r^2 = s^2 / strength, s = sigma / alpha, is DiffPIR (Zhu et al. 2023, eq. 13); with `spread` d it is
    s^2 d^2 / (s^2 + d^2) / strength, which PiGDM takes for data of standard deviation d (Song et al. 2023), and FLOWER
    for 1. With `ratio` g it is noise^2 / g at all levels, DDS (Chung et al. 2024). Takes no gradients through the
    model. It does not know how the data's elements go together: parts that A does not see stay as they were.

    iterations: of conjugate gradients, each a product with A and A^T. A deepinv Physics has its own minimiser
    (`prox_l2`), which is used instead where the noise is one number.
    """

    strength: float = 1.0
    spread: float | None = None
    ratio: float | None = None
    iterations: int = 5

    def __post_init__(self) -> None:
        positive("strength", self.strength)
        for name in ("spread", "ratio"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.spread is not None and self.ratio is not None:
            raise ValueError("ratio: it sets r by itself; give it or spread")
        whole("iterations", self.iterations)

    def corrected(self, at: Evaluation, observation: Measurements) -> Tensor:
        local = observation.linearised(at.denoised)
        std = observation.std
        if self.ratio is None:
            variance = self.variance(at.ratio)
        elif std is None:
            raise ValueError("ratio: expected noise that is one number")
        else:
            variance = std**2 / self.ratio
        if math.isinf(variance):
            raise ValueError("correction: 'proximal' at alpha = 0 needs spread, the data's standard deviation")
        if std is not None and variance:
            solved = observation.operator.prox(at.denoised, local.y, variance / std**2)
            if solved is not None:
                return solved
        return at.denoised + gain(local, lambda v: variance * v, self.iterations)

    def variance(self, ratio: float) -> float:
        """r^2 at s = sigma / alpha."""
        if self.spread is None:
            return ratio**2 / self.strength
        return self.spread**2 / (1 + (self.spread / ratio) ** 2) / self.strength if ratio else 0.0

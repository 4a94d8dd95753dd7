"""The law that a sampler draws on Gaussian data: computed, so that no bound on it needs room for luck.

With the exact denoiser a sampler is an affine map of its start and of its noises. In a batch whose sample 0 gets none
of them and sample k the k-th alone, the samples' ends are the map's columns: mean and variance follow without sampling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class UnitNoises:
    """A noise sampler: increments of a Brownian path over sigma, each new stretch of which is one sample's alone.

    A call that begins where the one before began sees that one's stretch again; any other sees a stretch not seen yet.
    """

    def __init__(self, x: Tensor, first: int) -> None:
        self.x, self.used = x, first
        self.ends, self.columns = [], []

    def __call__(self, sigma: float | Tensor, sigma_next: float | Tensor) -> Tensor:
        begin, end = float(sigma), float(sigma_next)
        if not self.ends or self.ends[0] != begin:
            self.ends, self.columns = [begin], []
        if end not in self.ends:
            assert abs(end - begin) > abs(self.ends[-1] - begin), "stretches are seen in order"
            self.ends.append(end)
            self.columns.append(self.fresh())
        parts = zip(self.columns[: self.ends.index(end)], self.ends, self.ends[1:], strict=False)
        return sum(column * (abs(b - a) / abs(end - begin)) ** 0.5 for column, a, b in parts)

    def fresh(self) -> Tensor:
        """The unit noise of the next sample that has none; 0 for the others."""
        noise = torch.zeros_like(self.x)
        noise[self.used] = 1.0
        self.used += 1
        return noise


def law(draw: Callable[[Tensor, UnitNoises], Tensor], mean: float, std: float, count: int = 400) -> tuple[float, float]:
    """Mean and standard deviation of draw(x [count, 1], noise) for x ~ N(mean, std^2) and up to count - 2 noises."""
    x = torch.full((count, 1), mean, dtype=torch.float64)
    x[1] += std
    drawn = draw(x, UnitNoises(x, 2))
    return float(drawn[0]), float((drawn - drawn[0]).norm())

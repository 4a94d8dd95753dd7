"""Converged runs of a few samples, known at every noise level: what rows are fitted to.

In the flow's coordinate tau = sigma / (alpha + sigma) the state z = x / (alpha + sigma) has the slope (z - D) / tau, D
the predicted data. Both are finite from pure noise (tau = 1) to clean data (tau = 0), so cubic Hermite pieces between
the points of the run are of fourth order on every schedule.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Points


class Trajectory:
    """Runs through `points` [M + 1]: states [M + 1, N, ...] there, the data [M, N, ...] predicted at the first M."""

    def __init__(self, points: Points, states: Tensor, data: Tensor) -> None:
        self.points, self.states, self.data = points, states, data
        scale = points.alpha + points.sigma
        self._scale, self._tau = scale, points.sigma / scale

    def __len__(self) -> int:
        """How many samples there are."""
        return self.states.shape[1]

    @property
    def end(self) -> Tensor:
        """[N, ...] the converged samples."""
        return self.states[-1]

    def at(self, alpha: float, sigma: float) -> Tensor:
        """[N, ...] the states at a noise level within the run."""
        s, _, cubic = self._cubic(alpha, sigma)
        return (cubic[0] + s * (cubic[1] + s * (cubic[2] + s * cubic[3]))) * (alpha + sigma)

    def data_at(self, alpha: float, sigma: float) -> Tensor:
        """[N, ...] the data that the model predicts there, from the slope of the run."""
        s, width, cubic = self._cubic(alpha, sigma)
        slope = (cubic[1] + s * (2 * cubic[2] + s * 3 * cubic[3])) / width
        return self.at(alpha, sigma) / (alpha + sigma) - sigma / (alpha + sigma) * slope

    def _cubic(self, alpha: float, sigma: float) -> tuple[float, float, tuple[Tensor, ...]]:
        """(place in the interval from 0 to 1, its signed width, z's coefficients as a polynomial in the place)."""
        j, s, width = self._piece(sigma / (alpha + sigma))
        first, last = self._state(j), self._state(j + 1)
        slope = self._slope(j) * width
        if j + 1 < len(self.data):
            end_slope = self._slope(j + 1) * width
            return s, width, (
                first, slope, 3 * (last - first) - 2 * slope - end_slope, 2 * (first - last) + slope + end_slope
            )  # fmt: skip
        # The model is not asked at the end: the parabola through what is known.
        return s, width, (first, slope, last - first - slope, torch.zeros_like(first))

    def _piece(self, tau: float) -> tuple[int, float, float]:
        """The interval that tau lies in, how far along it from 0 to 1, and its signed width."""
        j = int(np.clip(np.searchsorted(-self._tau, -tau, side="right") - 1, 0, len(self.data) - 1))
        width = self._tau[j + 1] - self._tau[j]
        return j, float(np.clip((tau - self._tau[j]) / width, 0.0, 1.0)), float(width)

    def _state(self, j: int) -> Tensor:
        return self.states[j].double() / self._scale[j]

    def _slope(self, j: int) -> Tensor:
        return (self._state(j) - self.data[j].double()) / self._tau[j]


def concatenated(parts: list[Trajectory]) -> Trajectory:
    """The runs of several batches as one."""
    return Trajectory(
        parts[0].points, torch.cat([p.states for p in parts], dim=1), torch.cat([p.data for p in parts], dim=1)
    )

"""Converged runs of a few samples, known at every noise level: what rows are fitted to.

In the flow's coordinate tau = sigma / (alpha + sigma) the state z = x / (alpha + sigma) has the slope (z - D) / tau, D
the predicted data. Both are finite from pure noise (tau = 1) to clean data (tau = 0), so cubic Hermite pieces between
the points of the run are of fourth order on every schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.schedule import Points

SAME = 1e-3  # of the samples' size: a difference of nothing but rounding


class Trajectory:
    """Runs through `points` [M + 1]: states [M + 1, N, ...] there, the data [M, N, ...] predicted at the first M.

    end: [N, ...] the converged samples.
    """

    def __init__(self, points: Points, states: Tensor | Rows, data: Tensor | Rows) -> None:
        self.points, self.states, self.data = points, states, data
        self.end = states[-1]
        scale = points.alpha + points.sigma
        self._scale, self._tau = scale, points.sigma / scale

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.end)

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


def distances(x: Tensor, exact: Tensor) -> Tensor:
    """[N] root mean square difference of each sample, float64."""
    return (x.double() - exact.double()).flatten(1).square().mean(1).sqrt()


def differ(x: Tensor, exact: Tensor) -> bool:
    """Whether any sample is another one: what reductions in another order leave is far less, fresh noise far more."""
    return not float(distances(x, exact).max()) <= SAME * float(exact.double().square().mean().sqrt())


def points_of(plan: Plan) -> Points:
    """[M + 1] where a run of a plan stands, the end included."""
    rows = [(row.t, row.alpha, row.sigma) for row in plan.rows] + [(float("nan"), *plan.end)]
    return Points(*np.array(rows).T)


class Rows(Sequence[Tensor]):
    """Batches [M, n, ...] as one [M, N, ...], a row [N, ...] at a time.

    parts: tensors, or slices of safetensors files, which are read where a row is asked for. samples: N, at most as many
    as the parts have together. device: of the rows.
    """

    def __init__(self, parts: Sequence[Any], samples: int, device: torch.device) -> None:
        self.parts, self.samples, self.device = parts, samples, device
        first = parts[0]
        self._length = len(first) if isinstance(first, Tensor) else first.get_shape()[0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, j: Any) -> Any:
        rows = [part[range(self._length)[j]] for part in self.parts]
        whole = rows[0] if len(rows) == 1 else torch.cat(rows)
        return whole[: self.samples].to(self.device)

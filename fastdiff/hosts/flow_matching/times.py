"""Times of a run on the host, in float32 as flow_matching has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def times_of(step_size: float | None, time_grid: Tensor | Sequence[float]) -> tuple[list[float], list[float]]:
    """The times between which steps are taken, and those of the grid. Raises ValueError naming the argument."""
    grid = [float(t) for t in (time_grid.tolist() if isinstance(time_grid, Tensor) else time_grid)]
    if len(grid) < 2:
        raise ValueError(f"time_grid: expected at least two times, got {grid}")
    if step_size is None:
        return grid, grid
    first, last = grid[0], grid[-1]
    if not 0 < step_size < last - first:
        raise ValueError(f"step_size: expected one in (0, {last - first:g}), the length of time_grid, got {step_size}")
    count = math.ceil((last - first) / step_size)
    return [*(first + step_size * i for i in range(count)), last], grid


def nearest(wanted: Sequence[float], times: Sequence[float]) -> list[int]:
    """For each wanted time the index of the nearest of the times."""
    apart = np.abs(np.asarray(wanted)[:, None] - np.asarray(times)[None])
    return apart.argmin(1).tolist()

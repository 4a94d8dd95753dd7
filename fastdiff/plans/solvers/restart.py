"""Restart (Xu et al. 2023, arXiv 2306.14878): Heun's steps, with stretches of the way taken again from more noise."""

from __future__ import annotations

from collections.abc import Sequence

from ..row import Row
from ..schedule import Points, Schedule
from .churn import restarted, with_level
from .karras import heun_step

# (low, high, steps, repeats) over sigma / alpha.
INTERVALS = ((0.06, 0.3, 3, 2),)


def restart(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    intervals: Sequence[Sequence[float]] = INTERVALS,
    s_noise: float = 1.0,
    coordinate: str | None = None,
) -> list[Row]:
    """Two evaluations a step, and 2 steps repeats more for each interval (low, high, steps, repeats) of sigma / alpha.

    Where the grid has no point at `low`, the step across it is split there, at two evaluations more.
    """
    least, most = (float(schedule.coordinate(schedule.at(t), "sigma")) for t in (schedule.t_min, schedule.t_max))
    for interval in intervals:
        low, high, steps, repeats = interval
        if not 0 < low < high or steps < 1 or repeats < 0:
            raise ValueError(f"intervals: expected (low, high, steps, repeats) with low < high, got {interval}")
        if not least <= low < high <= most:
            raise ValueError(f"intervals: expected levels of sigma/alpha within {schedule!r}, got {interval}")
        # A stretch can only begin where a step ends.
        points = with_level(schedule, points, low)
    return restarted(schedule, points, heun_step(schedule, prediction, coordinate), intervals, s_noise)

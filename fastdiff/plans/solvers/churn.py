"""Noise put back between steps: churn before every step, or a restart of a whole stretch.

Churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2) and Restart (Xu et al. 2023, arXiv 2306.14878, algorithm 1).
Going up from (alpha, sigma) to a point of more noise (alpha', sigma') is the forward process:

    x' = (alpha' / alpha) x + sqrt(sigma'^2 - (alpha' sigma / alpha)^2) xi

so it is folded into the row that came down. A churn before the first step is a start at the higher level: the law is
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..row import LinearUpdate, Row
from ..schedule import Points, Schedule

MAX_CHURN = math.sqrt(2) - 1
Step = Callable[[int, Points, Points], list[Row]]


class Churn(NamedTuple):
    """Before each of N steps whose s = sigma / alpha lies in [s_tmin, s_tmax], noise is put back up to s (1 + gamma).

    gamma = min(s_churn / N, max_churn). The paper's bound is sqrt(2) - 1; models of structures use 0.8 and more.
    s_noise multiplies the fresh noise.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    max_churn: float = MAX_CHURN

    def above(self, schedule: Schedule, s: Points, steps: int) -> Points:
        """Where the step from s begins."""
        level = float(s.sigma / s.alpha) if s.alpha else math.inf
        gamma = min(self.s_churn / steps, self.max_churn)
        if gamma == 0 or math.isinf(level) or not self.s_tmin <= level <= self.s_tmax:
            return s
        # s (1 + gamma) in lambda = -log(s); log1p keeps a small gamma's digits.
        return schedule.at_log_snr(np.float64(s.log_snr - math.log1p(gamma)))


def churned(schedule: Schedule, points: Points, step: Step, churn: Churn) -> list[Row]:
    """The steps one after the other, each from where its churn takes it."""
    steps = len(points.t) - 1
    rows: list[Row] = []
    for i in range(steps):
        s, t = points.at(i), points.at(i + 1)
        above = churn.above(schedule, s, steps)
        # There is no row before the first one: the run itself then starts at the higher level.
        if rows and above is not s:
            rows[-1] = renoised(rows[-1], s, above, i, churn.s_noise)
        rows += step(i, above, t)
    return rows


def restarted(
    schedule: Schedule, points: Points, step: Step, intervals: Sequence[Sequence[float]], s_noise: float
) -> list[Row]:
    """The steps, and wherever one ends at the low end of an interval, its stretch again from its high end.

    intervals: (low, high, steps, repeats), low and high as s = sigma / alpha; the stretch is laid out by Karras' rho 7.
    """
    rows: list[Row] = []
    index = len(points.t)  # noises up to here belong to the start and to the steps
    for i in range(len(points.t) - 1):
        low = points.at(i + 1)
        rows += step(i, points.at(i), low)
        for at, high, steps, repeats in intervals:
            # sigma = at alpha instead of sigma / alpha = at: alpha may be 0 at the start.
            if not math.isclose(at * float(low.alpha), float(low.sigma), rel_tol=1e-9):
                continue
            stretch = _stretch(schedule, low, high, int(steps))
            for _ in range(int(repeats)):
                index += 1
                rows[-1] = renoised(rows[-1], low, stretch.at(0), index, s_noise)
                for j in range(int(steps)):
                    rows += step(i, stretch.at(j), stretch.at(j + 1))
    return rows


def with_level(schedule: Schedule, points: Points, level: float) -> Points:
    """The points, and the one with sigma / alpha = level among them."""
    # A second point at a level of the grid would be a step of length zero; 1e-9 is far above rounding.
    log_snr = -math.log(level)
    if np.isclose(points.log_snr, log_snr, rtol=0, atol=1e-9).any():
        return points
    place = int(np.searchsorted(points.log_snr, log_snr))
    if place == 0 or place == len(points.t):
        raise ValueError(f"intervals: expected a low end within the run's noise levels, got {level}")
    return Points(*(np.insert(v, place, new) for v, new in zip(points, schedule.at_log_snr(log_snr), strict=True)))


def renoised(row: Row, low: Points, high: Points, index: int, s_noise: float) -> Row:
    """The row whose result at `low` goes on to `high`."""
    factor = float(high.alpha / low.alpha)
    kept = factor * float(low.sigma)
    # sigma'^2 - kept^2 as a product: where little noise is put back the difference of the squares would cancel.
    spread = s_noise * math.sqrt(max(0.0, (float(high.sigma) - kept) * (float(high.sigma) + kept)))
    return replace(row, x=LinearUpdate(x=factor, noise=((index, spread),)).substitute_x(row.x))


def _stretch(schedule: Schedule, low: Points, high: float, steps: int) -> Points:
    # Uniform in s^(1/7) (Karras et al. 2022, eq. 5), from high down to the point that the run came from.
    u = np.linspace(high ** (1 / 7), math.exp(-float(low.log_snr)) ** (1 / 7), steps + 1)
    points = schedule.at_log_snr(-7 * np.log(u))
    # That point exactly, not through powers and logarithms: the next step begins there.
    for values, end in zip(points, low, strict=True):
        values[-1] = end
    return points

"""A plan at another library's times: its noise levels are found on the library's alpha(t) and sigma(t).

A solver's step depends on the levels sigma / alpha alone. So a run may hold its state in the plan's own scale, on data
that have been scaled by alpha(t) and sigma(t) in any other way, if the model's input is scaled back (`Row.c_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..plans.plan import Plan
from ..plans.prediction import FORMS, convert
from ..plans.schedule import Flow, Points, Schedule

LEAST = 1e-9  # level, where the library's is 0
HALVINGS = 60  # of the interval of times: to float64's rounding


class Levels:
    """x_t = alpha(t) x0 + sigma(t) eps from the time `start` to `stop`, with less noise at each time than before.

    scales: times [n] in float64 -> alpha [n] and sigma [n]. Raises ValueError where the noise does not fall.
    """

    def __init__(
        self, scales: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], start: float, stop: float
    ) -> None:
        self._scales, self.start, self.stop = scales, float(start), float(stop)
        ends = self.at(np.linspace(start, stop, 9))
        level = ends.sigma / (ends.alpha + ends.sigma)
        if not (np.all(np.isfinite(level)) and np.all(np.diff(level) < 0)):
            raise ValueError(f"schedule: expected noise that falls from t = {start:g} to {stop:g}, got {level}")
        self.most, self.least = float(level[0]), float(level[-1])

    def at(self, t: np.ndarray) -> Points:
        """The points of the given times."""
        t = np.asarray(t, dtype=np.float64)
        return Points(t, *(np.asarray(v, dtype=np.float64) for v in self._scales(t)))

    def nearest(self, alpha: np.ndarray, sigma: np.ndarray) -> Points:
        """Where sigma / alpha is as given, or as near to it as between start and stop."""
        late, early = np.full_like(alpha, self.start), np.full_like(alpha, self.stop)
        for _ in range(HALVINGS):
            middle = self.at((late + early) / 2)
            above = middle.sigma * alpha > sigma * middle.alpha
            late, early = np.where(above, middle.t, late), np.where(above, early, middle.t)
        return self.at((late + early) / 2)

    def as_flow(self) -> Schedule:
        """The same levels as a flow's times sigma / (alpha + sigma), for data of unit spread."""
        return LevelsAsFlow(self.most, self.least)

    def as_edm(self) -> Schedule:
        """The same levels as EDM's times sigma / alpha, for data of spread 0.5."""
        least = max(self.least / (1 - self.least), LEAST)
        schedule = Schedule.edm(least, self.most / (1 - self.most))
        schedule.default_prediction = "sample"
        return schedule


class LevelsAsFlow(Flow):
    """A flow between two of its times, of a model that predicts x0."""

    default_prediction = "sample"

    def __init__(self, most: float, least: float) -> None:
        super().__init__(1.0, max(least, LEAST), None)
        self.t_max = most


def placed(plan: Plan, levels: Levels) -> tuple[Plan, float, float]:
    """The plan for a model of x and t in the library's own scale and time, which predicts x0; and two factors.

    The first one takes the library's x to the state that the plan begins with, the second one the plan's last state to
    the library's x. Raises ValueError for rows whose output is a mixture that has no name.
    """
    alpha, sigma = np.array([(row.alpha, row.sigma) for row in plan.rows] + [plan.end]).T
    there = levels.nearest(alpha, sigma)
    scale = (there.alpha * alpha + there.sigma * sigma) / (alpha**2 + sigma**2)
    rows = []
    for row, t, c_in in zip(plan.rows, there.t.tolist(), scale.tolist(), strict=False):
        if row.form not in FORMS:
            raise ValueError(f"plan: expected rows in one of the forms {', '.join(FORMS)}, got {row.form!r}")
        p_x, p_m = convert("sample", row.form, row.alpha, row.sigma)
        rows.append(replace(row, t=t, c_in=c_in, p_x=p_x, p_m=p_m))
    return replace(plan, rows=tuple(rows), prediction="sample", schedule=()), 1 / scale[0], float(scale[-1])

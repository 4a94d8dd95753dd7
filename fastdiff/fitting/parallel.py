"""Plans whose calls of the model make several evaluations: where a fit of such plans begins.

A call asks the model about the state x_i and about where the outputs so far would lead it, at K - 1 later points up to
the next one. All K outputs, and those of earlier calls, then make x_{i+1}. The theory's weights are the first-order
ones of the newest output that is known; the fit finds those of all. After EPD-Solver (arXiv 2507.14797), which
evaluates points inside a step in parallel, but after a call of its own for the step's beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..plans.grid import make_grid
from ..plans.plan import Plan
from ..plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from .search import Candidate, SolverSpec, distinct, grids_of, is_inside

MAX_PARALLEL = 4  # evaluations in a call, so that the history holds those of two calls
FORMS = ("data", "noise", "flow")
LAST = 0.9  # of the last interval, which ends without noise: no model is asked there
NAME = "parallel"


class ParallelSpec(SolverSpec):
    """The rows of K evaluations a call. options: "evaluations" K, and "form", that of the outputs."""

    def build(self, points: Points) -> Plan:
        """The plan on these points, of K rows an interval."""
        count, form = self.options["evaluations"], self.options["form"]
        rows: list[Row] = []
        for i in range(len(points.t) - 1):
            here, there = points.at(i), points.at(i + 1)
            asked = [here, *(self._between(here, there, j / (count - 1)) for j in range(1, count))]
            for j, (point, after) in enumerate(zip(asked, [*asked[1:], there], strict=True)):
                from_state, from_output = first_order(form, here, after)
                last = j == count - 1
                unknown = 0 if last else j + 1
                history = (*[0.0] * unknown, from_output) if i or last else ()
                of_base, of_x = (from_state, 0.0) if j else (0.0, from_state)
                line = LinearUpdate(of_base, of_x, history)
                base = None if last else BASE_UNCHANGED if j else BASE_FROM_X
                rows.append(Row.at(point, form, self.prediction, line, base))
        end = float(points.alpha[-1]), float(points.sigma[-1])
        return Plan(tuple(rows), end, self.prediction, NAME, "fitted")

    def _between(self, here: Points, there: Points, share: float) -> Points:
        """The point that far from one to the other, in tau = sigma / (alpha + sigma)."""
        begin, end = (float(p.sigma / (p.alpha + p.sigma)) for p in (here, there))
        tau = begin + (end - begin) * (share if end > 0 else LAST * share)
        log_snr = min(np.log1p(-tau) - np.log(tau), float(self.schedule.log_snr(self.schedule.t_min)))
        return self.schedule.at_log_snr(log_snr)


def first_order(form: str, here: Points, there: Points) -> tuple[float, float]:
    """(weight of the state, weight of the output) of the step that takes the output D for constant in between.

    D is x0, eps or eps - x0; the state is alpha x0 + sigma eps at both points. Raises ZeroDivisionError where the state
    here says nothing about the rest of it: noise alone, or data alone.
    """
    (a, s), (a_next, s_next) = ((float(p.alpha), float(p.sigma)) for p in (here, there))
    if form == "data":
        return s_next / s, a_next - a * s_next / s
    if form == "noise":
        return a_next / a, s_next - s * a_next / a
    return (a_next + s_next) / (a + s), (s_next * a - a_next * s) / (a + s)


def parallel_candidates(schedule: Schedule, prediction: str, calls: int, evaluations: int) -> list[Candidate]:
    """Plans of that many calls with as many evaluations each, on every grid and in every form that they can have."""
    return distinct(_all(schedule, prediction, calls, evaluations))


def _all(schedule: Schedule, prediction: str, calls: int, evaluations: int) -> Iterator[Candidate]:
    for form in FORMS:
        spec = ParallelSpec(NAME, schedule, prediction, {"evaluations": evaluations, "form": form})
        for grid in grids_of(schedule):
            try:
                points = make_grid(schedule, calls, grid)
                plan = spec.build(points)
            except (ValueError, ZeroDivisionError):  # the grid has another number of steps, or the form no such step
                continue
            if len(points.t) == calls + 1 and is_inside(schedule, points):
                yield Candidate(spec, grid, points, plan)


def spec_of(
    solver: str, schedule: Schedule, prediction: str, options: dict[str, Any], calls: tuple[str, ...] = ()
) -> SolverSpec:
    """The spec of that name: of a solver of the catalogue, or of parallel evaluations."""
    kind = ParallelSpec if solver == NAME else SolverSpec
    return kind(solver, schedule, prediction, options, calls)

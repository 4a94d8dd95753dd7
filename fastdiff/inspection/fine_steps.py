"""Where a step should have led, measured: the same interval in fine steps of the model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.row import Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.embedded import embedded_step
from ..sampling.adaptive import first_order_row
from ..sampling.model import Model
from ..sampling.request import Request
from .step_forms import Level, StepForm


class FineSteps:
    """Solves the probability flow ODE over one step at a time: `exact(step, start)`.

    Each step is divided into `substeps` equal parts of sigma / (alpha + sigma), or of sigma where alpha is 1, and each
    part makes the six evaluations of Cash & Karp's fifth-order method (`fastdiff.plans.solvers.embedded`).
    """

    def __init__(self, model: Model, request: Request, plan: Plan, schedule: Schedule, substeps: int) -> None:
        self._model, self._plan, self._schedule, self._substeps = model, plan, schedule, substeps
        # The state at a step's start is all that a fine run begins with.
        self._request = request._replace(image=None, mask=None, seeds=None)

    @torch.no_grad()
    def exact(self, step: StepForm, start: Tensor) -> Tensor | None:
        """[B, ...] the solution at the step's end. None where the schedule has no finer times than the step's own."""
        rows = self._rows(step.s, step.t)
        if rows is None:
            return None
        plan = Plan(tuple(rows), step.t, self._plan.prediction)
        request = self._request._replace(model_dtype=self._request.model_dtype or start.dtype)
        run, calls = request.begin(self._model, plan, start / plan.init_scale, watched=False)
        return run.drive(calls.evaluator(run))

    def _rows(self, s: Level, t: Level) -> list[Row] | None:
        schedule, which = self._schedule, "sigma" if self._schedule.kind == "ve" else "flow"
        least = schedule.at(schedule.least_time(self._plan.prediction))
        first, last = (float(schedule.coordinate(_point(level), which)) for level in (s, t))
        floor = float(schedule.coordinate(least, which))
        end = max(last, floor)
        if not end < first:
            return None
        places = np.linspace(first, end, self._substeps + 1)
        points = [schedule.at_coordinate(np.float64(place), which) for place in places]
        rows = []
        for here, there in itertools.pairwise(points):
            *stages, final = embedded_step(schedule, here, there, self._plan.prediction, "rk_45")
            rows += [*stages, replace(final, base=None)]  # the lower order is not needed
        if last < floor:
            clean = Points(np.float64(schedule.t_clean), np.float64(t[0]), np.float64(t[1]))
            rows.append(first_order_row(least, clean, self._plan.prediction))
        return rows


def _point(level: Level) -> Points:
    return Points(np.float64(np.nan), np.float64(level[0]), np.float64(level[1]))

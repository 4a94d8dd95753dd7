"""DPM-Solver singlestep as diffusers counts it: every evaluation is a step, the grid's own points are the stages."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import BASE_UNCHANGED, LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.empty import around_empty_steps
from ..plans.solvers.exponential import first_order, is_finite, stage_lines
from .base import FusedScheduler
from .dpm_solver_multistep import form_of
from .noise import output_noise
from .recipe import Recipe
from .run_state import Key, RunAttribute, RunState, Scheduler
from .spaces import VP_OR_FLOW
from .step import fused_step


def singlestep_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the scheduler's model: an evaluation at each point but the last."""
    rows: list[Row] = []
    for size in _blocks(run.order_list[run.begin : len(run.times)]):
        whole = points.at(slice(len(rows), len(rows) + size + 1))
        make = lambda points, places: _block(scheduler, points, places)  # noqa: E731
        rows += around_empty_steps(whole, scheduler.config.prediction_type, make)
    return rows


def _block(scheduler: Scheduler, points: Points, places: list[int]) -> list[Row]:
    """One step."""
    if len(places) > 1 and not is_finite(points.at(0), points.at(-1)):
        # There are no stages on an infinite way: each evaluation is a step.
        return [row for i in range(len(places)) for row in _block(scheduler, points.at(slice(i, i + 2)), [i])]
    config = scheduler.config
    size = len(points.t) - 1
    stages, t = [points.at(i) for i in range(size)], points.at(size)
    stochastic = config.algorithm_type.startswith("sde")
    form = "data" if float(points.alpha[0]) == 0 else form_of(config.algorithm_type)
    if is_finite(stages[0], t):
        length = t.log_snr - stages[0].log_snr
        places = [float((p.log_snr - stages[0].log_snr) / length) for p in stages[1:]]
        r1, r2 = (*places, 1.0, 1.0)[:2]
        lines = stage_lines(stages, t, form, size, config.solver_type, r1, r2, float(stochastic))
    else:
        x_weight, d_weight = (0.0, float(t.alpha)) if stochastic else first_order(stages[0], t, form)
        lines = [LinearUpdate(base=x_weight, history=(d_weight,))]
    rows = []
    for stage, end, line in zip(stages, (*stages[1:], t), lines, strict=True):
        if stochastic:
            line = replace(line, noise=((1, _spread(stages[0], end)),))
        rows.append(Row.at(stage, form, config.prediction_type, line, None if end is t else BASE_UNCHANGED))
    return rows


def _spread(s: Points, t: Points) -> float:
    """The SDE's noise over the whole way from s to t."""
    h = float(t.log_snr - s.log_snr)
    return float(t.sigma) * math.sqrt(-math.expm1(-2 * h)) if t.sigma else 0.0


def _blocks(orders: list[int]) -> list[int]:
    """How many evaluations each step has: the order rises by one with each, and falls back to 1 with a new step."""
    sizes: list[int] = []
    for i, order in enumerate(orders):
        if order == 1 or i == 0:
            sizes.append(1)
        else:
            sizes[-1] += 1
    return sizes


class DPMSolverSinglestepScheduler(FusedScheduler, diffusers.DPMSolverSinglestepScheduler):
    """DPM-Solver singlestep of order 1 to 3 (Lu et al. 2022, arXiv 2206.00927 algorithms 1, 4, 5; 2211.01095)."""

    order_list = RunAttribute()
    recipe = Recipe(singlestep_rows, VP_OR_FLOW, noise=output_noise)
    step = fused_step(diffusers.DPMSolverSinglestepScheduler.step, SchedulerOutput)

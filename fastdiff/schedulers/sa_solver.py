"""SA-Solver: each step predicts, and corrects the sample that the step before predicted, with the noise it had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.empty import around_empty_steps
from ..plans.solvers.sa_solver import sa_solver
from .base import FusedScheduler
from .noise import output_noise
from .recipe import Recipe
from .run_state import Generators, Key, RunAttribute, RunState, Scheduler
from .spaces import VP_OR_FLOW
from .step import fused_step


def sa_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the scheduler's model, with the authors' weights of two outputs; each row draws, as in diffusers."""
    config = scheduler.config
    times = np.append(run.times[run.begin :], 0.0)  # tau is a function of them

    def make(points: Points, places: list[int]) -> Sequence[Row]:
        rows = sa_solver(
            VP_OR_FLOW.schedule(scheduler), points, config.prediction_type, simple=True,
            predictor_order=config.predictor_order, corrector_order=config.corrector_order,
            tau=scheduler.tau_func, form="data" if scheduler.predict_x0 else "noise",
            lower_order_final=bool(config.lower_order_final),
        )  # fmt: skip
        return [_drawing(row, i + 1) for i, row in enumerate(rows)]

    return around_empty_steps(points._replace(t=times), config.prediction_type, make)


def _drawing(row: Row, index: int) -> Row:
    """The row with noise number `index`, of weight 0 where it has none."""
    if index in dict(row.x.noise):
        return row
    return replace(row, x=replace(row.x, noise=(*row.x.noise, (index, 0.0))))


def sa_noise(
    scheduler: Scheduler, run: RunState, step: int, m: Tensor, x: Tensor, generator: Generators
) -> tuple[Tensor, ...]:
    """The step's noise, after that of the step before where the corrector reads it again."""
    before, run.last_noise = run.last_noise, output_noise(scheduler, run, step, m, x, generator)
    again = run.table.rows[step - run.begin].draws > 1
    return (before, run.last_noise) if again else (run.last_noise,)


def in_the_middle(t: float) -> int:
    """diffusers' tau where none is given: the reverse SDE at times from 200 to 800, the ODE outside."""
    return int(200 <= t <= 800)


class SASolverScheduler(FusedScheduler, diffusers.SASolverScheduler):
    """SA-Solver of orders 1 to 4 (Xue et al. 2023, arXiv 2309.05019), in data and in noise form."""

    last_noise = RunAttribute()
    recipe = Recipe(sa_rows, VP_OR_FLOW, output_dtype="sample", noise=sa_noise, reads=("tau_func", "predict_x0"))
    step = fused_step(diffusers.SASolverScheduler.step, SchedulerOutput)

    def __getstate__(self) -> dict[str, object]:
        """diffusers' own tau is made inside a function and cannot be pickled."""
        state = super().__getstate__()
        if state["tau_func"].__module__ == diffusers.SASolverScheduler.__module__:
            state["tau_func"] = in_the_middle
        return state

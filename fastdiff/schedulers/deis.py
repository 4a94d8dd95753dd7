"""DEIS: the exponential integrator whose polynomials are in log rho."""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.deis import deis
from ..plans.solvers.empty import around_empty_steps
from .base import FusedScheduler
from .dpm_solver_multistep import SHORT_RUN
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import VP_OR_FLOW
from .step import fused_step


def deis_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the scheduler's model."""
    config, schedule = scheduler.config, scheduler.recipe.space.schedule(scheduler)
    lower = bool(config.lower_order_final) and len(run.times) < SHORT_RUN

    def make(points: Points, places: list[int]) -> list[Row]:
        return deis(
            schedule, points, config.prediction_type, variable="log_rho", order=config.solver_order,
            lower_order_final=lower,
        )  # fmt: skip

    return around_empty_steps(points, config.prediction_type, make)


class DEISMultistepScheduler(FusedScheduler, diffusers.DEISMultistepScheduler):
    """DEIS in log rho, of order 1 to 3 (Zhang & Chen 2023, arXiv 2204.13902)."""

    recipe = Recipe(deis_rows, VP_OR_FLOW)
    step = fused_step(diffusers.DEISMultistepScheduler.step, SchedulerOutput)

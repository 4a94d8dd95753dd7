"""Heun's method in sigma: two evaluations a step."""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.karras import heun
from .base import FusedScheduler
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import SIGMA_TWICE, VE_SCHEDULE
from .step import fused_step, scale_model_input


def heun_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For a model that predicts x0."""
    return heun(VE_SCHEDULE, points, "sample", coordinate="sigma")


@property
def state_in_first_order(self: Scheduler) -> bool:
    """Whether the next evaluation begins a step; diffusers' own step keeps dt until it ends."""
    run = self._threads.run
    return run.last_sample is None and getattr(run, "dt", None) is None


class HeunDiscreteScheduler(FusedScheduler, diffusers.HeunDiscreteScheduler):
    """Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

    recipe = Recipe(heun_rows, SIGMA_TWICE, extra="converted")
    step = fused_step(diffusers.HeunDiscreteScheduler.step, HeunDiscreteSchedulerOutput)
    scale_model_input = scale_model_input
    state_in_first_order = state_in_first_order

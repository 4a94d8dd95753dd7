"""Euler's method on a flow that runs from noise at t = 0 to data at t = 1."""

from __future__ import annotations

from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_minimax_h3 import MiniMaxH3SchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.adams import adams
from .base import FusedScheduler
from .euler import check_time
from .own_times import own_times
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import FLOW_SCHEDULE, Flow
from .step import fused_step


def towards_data_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """From each sigma to the next, for a model of x0 - eps."""
    rows = adams(FLOW_SCHEDULE, points, "flow_prediction", order=1, coordinate="flow")
    return [replace(row, p_m=-row.p_m) for row in rows]


class MiniMaxH3Scheduler(FusedScheduler, diffusers.MiniMaxH3Scheduler):
    """Euler's method on the flow (Lipman et al. 2023, arXiv 2210.02747), of a velocity that points to the data."""

    recipe = Recipe(towards_data_rows, Flow(fractional=True), output_dtype="sample", keeps_output=False)
    set_timesteps = own_times(diffusers.MiniMaxH3Scheduler.set_timesteps)
    step = fused_step(diffusers.MiniMaxH3Scheduler.step, MiniMaxH3SchedulerOutput, check=check_time)

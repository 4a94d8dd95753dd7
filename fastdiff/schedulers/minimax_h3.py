"""Euler's method on a flow that runs from noise at t = 0 to data at t = 1."""

from __future__ import annotations

from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_minimax_h3 import MiniMaxH3SchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from .base import FusedScheduler
from .euler import check_time
from .own_times import own_times
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import Flow
from .step import fused_step


def towards_data_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """From each sigma to the next, for a model of x0 - eps: (sigma_t / sigma_s) x + (1 - sigma_t / sigma_s) x0.

    x0 is that of the time that the model is told, x + (1 - t) m, which a host may have made another one than sigma_s.
    """
    rows = []
    for i in range(len(points.t) - 1):
        s, t, told = points.at(i), points.at(i + 1), run.times[run.begin + i]
        line = LinearUpdate(x=1.0, history=(float((t.sigma / s.sigma - 1) * (1 - told)),))
        row = Row.at(s, "flow", "flow_prediction", line)
        rows.append(replace(row, p_m=-row.p_m))
    return rows


class MiniMaxH3Scheduler(FusedScheduler, diffusers.MiniMaxH3Scheduler):
    """Euler's method on the flow (Lipman et al. 2023, arXiv 2210.02747), of a velocity that points to the data."""

    recipe = Recipe(towards_data_rows, Flow(fractional=True), output_dtype="sample", keeps_output=False)
    set_timesteps = own_times(diffusers.MiniMaxH3Scheduler.set_timesteps)
    step = fused_step(diffusers.MiniMaxH3Scheduler.step, MiniMaxH3SchedulerOutput, check=check_time)

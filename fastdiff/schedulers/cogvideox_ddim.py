"""CogVideoX's DDIM: without noise and without bounds on x0, whatever `step` and the configuration say, as there."""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_ddim_cogvideox import DDIMSchedulerOutput

from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from .base import FusedScheduler
from .ddim import ends_of, rows_between
from .recipe import Recipe, Rows
from .run_state import Key, RunState, Scheduler
from .spaces import TRAINING_TIME
from .step import fused_step


def cogvideox_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> Rows:
    """From each of the times to where its step ends."""
    prediction = scheduler.config.prediction_type
    ends = run.at(ends_of(scheduler, run)[run.begin :])
    return rows_between(points, ends, lambda s, t: ddim_row(s, t, prediction, 1))


class CogVideoXDDIMScheduler(FusedScheduler, diffusers.CogVideoXDDIMScheduler):
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with eta = 0)."""

    recipe = Recipe(cogvideox_rows, TRAINING_TIME, extra="converted", steps_by_time=True, bounds_x0=False)
    step = fused_step(diffusers.CogVideoXDDIMScheduler.step, DDIMSchedulerOutput)

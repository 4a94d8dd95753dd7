"""Sampling of simplified continuous-time consistency models."""

from __future__ import annotations

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_scm import SCMSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.consistency import consistency
from .base import FusedScheduler
from .noise import float32_noise
from .own_times import own_times
from .recipe import Recipe
from .rows import with_noise
from .run_state import Key, RunState, Scheduler
from .space import Space
from .spaces import VP_SCHEDULE
from .step import fused_step


class TrigFlow(Space):
    """x = cos(t) x0 + sin(t) z, and timesteps are t in radians, the end among them."""

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        t = run.times[begin:]
        return Points(t, np.cos(t), np.sin(t))


def scm_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """To data, and with noise of the data's spread back up to the next time. The model's F = dx/dt is v."""
    if scheduler.config.prediction_type != "trigflow":
        raise ValueError(f"prediction_type: expected trigflow, got {scheduler.config.prediction_type!r}")
    rows = consistency(VP_SCHEDULE, points, "v_prediction", s_noise=scheduler.config.sigma_data)
    return [with_noise(row) for row in rows]


class SCMScheduler(FusedScheduler, diffusers.SCMScheduler):
    """Multistep consistency sampling in TrigFlow (Lu & Song 2024, arXiv 2410.11081)."""

    recipe = Recipe(scm_rows, TrigFlow(fractional=True), extra="converted", noise=float32_noise)
    set_timesteps = own_times(diffusers.SCMScheduler.set_timesteps)
    step = fused_step(diffusers.SCMScheduler.step, SCMSchedulerOutput)

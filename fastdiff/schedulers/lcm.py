"""Sampling of latent consistency models."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.consistency import consistency
from .base import FusedScheduler
from .noise import wider_noise
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import TRAINING_TIME, VP_SCHEDULE
from .step import fused_step


def lcm_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """To data, and with noise back up to the next of the times; base' is the data."""
    config, rows = scheduler.config, []
    for i, time in enumerate([*run.times[run.begin + 1 :], run.times[-1]]):
        s, t = points.at(i), run.at(time)
        clean = t._replace(alpha=np.float64(1.0), sigma=np.float64(0.0))
        last = run.begin + i == run.num_inference_steps - 1
        to, denoised = (
            consistency(VP_SCHEDULE, Points(*map(np.array, zip(s, end, strict=True))), config.prediction_type,
                        noise_left=0.0, timestep_scaling=config.timestep_scaling)[0]
            for end in (clean if last else t, clean)
        )  # fmt: skip
        rows.append(replace(to, base=denoised.x))
    return rows


class LCMScheduler(FusedScheduler, diffusers.LCMScheduler):
    """Multistep consistency sampling (Luo et al. 2023, arXiv 2310.04378, algorithm 3)."""

    recipe = Recipe(lcm_rows, TRAINING_TIME, extra="base", noise=wider_noise, keeps_output=False)
    step = fused_step(diffusers.LCMScheduler.step, LCMSchedulerOutput)

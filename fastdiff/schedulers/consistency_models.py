"""Sampling of consistency models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_consistency_models import CMStochasticIterativeSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.consistency import consistency
from .base import FusedScheduler
from .euler import check_input
from .noise import output_noise
from .recipe import Recipe
from .rows import Threshold, with_noise
from .run_state import Key, RunState, Scheduler
from .space import Placed, Wanted
from .spaces import VE_SCHEDULE, Edm
from .step import fused_step, scale_model_input


class Karras(Edm):
    """x = x0 + sigma eps; the model's time is 250 log(sigma). A caller's timesteps are numbers of training times."""

    def is_native(self, scheduler: Scheduler, given: dict[str, object], names: Sequence[str]) -> bool:
        return not given or given.keys() == {"timesteps"}

    def place(self, scheduler: Scheduler, run: RunState, count: int, wanted: Wanted) -> Placed:
        times, sigmas = super().place(scheduler, run, count, wanted)
        return 1000 * times, sigmas

    def fit(self, scheduler: Scheduler, row: Row) -> Row:
        """x0 = c_skip x + c_out m, which is x itself at sigma_min (Song et al. 2023, arXiv 2303.01469, appendix C)."""
        data, above = scheduler.config.sigma_data, row.sigma - scheduler.config.sigma_min
        c_skip = data**2 / (above**2 + data**2)
        return replace(row, p_x=c_skip, p_m=above * data / np.hypot(row.sigma, data))


def consistency_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """To data, and with noise back up to the next sigma, less sigma_min, which the data still have."""
    config = scheduler.config
    sigma = np.append(points.sigma[:1], points.sigma[1:].clip(config.sigma_min, config.sigma_max))
    rows = consistency(
        VE_SCHEDULE, points._replace(sigma=sigma), "sample", s_noise=config.s_noise, noise_left=config.sigma_min
    )
    return [with_noise(row) for row in rows] if len(run.times) > 1 else rows


class CMStochasticIterativeScheduler(FusedScheduler, diffusers.CMStochasticIterativeScheduler):
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1)."""

    recipe = Recipe(consistency_rows, Karras(fractional=True, ready=True), noise=output_noise, keeps_output=False)
    step = fused_step(
        diffusers.CMStochasticIterativeScheduler.step, CMStochasticIterativeSchedulerOutput, check=check_input
    )
    scale_model_input = scale_model_input

    def _bounds(self) -> tuple[float | None, Threshold | None]:
        return 1.0 if self.config.clip_denoised else None, None

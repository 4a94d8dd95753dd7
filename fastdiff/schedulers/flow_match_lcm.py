"""Sampling of flow models that map noise to data in one evaluation."""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.consistency import consistency
from .base import FusedScheduler
from .euler import check_time
from .noise import float32_noise
from .recipe import Recipe
from .rows import with_noise
from .run_state import Key, RunState, Scheduler
from .spaces import FLOW, FLOW_SCHEDULE, keep_one_time
from .step import fused_step


def flow_lcm_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """To data, and with fresh noise back up to the next sigma; the last one too draws its noise."""
    return [with_noise(row) for row in consistency(FLOW_SCHEDULE, points, "flow_prediction", noise_left=0.0)]


def changes_size(scheduler: Scheduler, options: dict) -> bool:
    """Whether predictions are made larger from step to step, which is left to diffusers."""
    return bool(scheduler._scale_factors and scheduler._upscale_mode)


class FlowMatchLCMScheduler(FusedScheduler, diffusers.FlowMatchLCMScheduler):
    """Multistep consistency sampling (Luo et al. 2023, arXiv 2310.04378) on a flow; diffusers' with scale_factors."""

    recipe = Recipe(flow_lcm_rows, FLOW, output_dtype="output", noise=float32_noise, keeps_output=False)
    step = fused_step(
        diffusers.FlowMatchLCMScheduler.step, FlowMatchLCMSchedulerOutput, native=changes_size, check=check_time
    )
    stretch_shift_to_terminal = keep_one_time(diffusers.FlowMatchLCMScheduler.stretch_shift_to_terminal)

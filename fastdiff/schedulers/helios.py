"""Helios' schedulers: stages of rising size, each a flow of its own from sigma 0.999 to 0."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import torch
from diffusers.schedulers.scheduling_helios import HeliosSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.adams import adams
from .base import FusedScheduler
from .own_times import own_times
from .recipe import Recipe
from .run_state import Key, RunAttribute, RunState, Scheduler
from .spaces import FLOW_SCHEDULE, VpOrFlow, flow_points
from .step import fused_step
from .unipc import unipc_rows


def helios_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> Sequence[Row]:
    """UniPC or Euler, as scheduler_type says."""
    kind = scheduler.config.scheduler_type
    if kind == "unipc":
        return unipc_rows(scheduler, run, points, key)
    if kind == "euler":
        flow = flow_points(run.host_sigmas[run.begin :])
        return adams(FLOW_SCHEDULE, flow, "flow_prediction", order=1, coordinate="flow")
    raise NotImplementedError(f"scheduler_type: expected unipc or euler, got {kind!r}")


class HeliosScheduler(FusedScheduler, diffusers.HeliosScheduler):
    """UniPC (Zhao et al. 2023, arXiv 2302.04867) or Euler's method in a stage of the pyramid; gives prev_sample alone.

    Where solver_p predicts, diffusers' own step.
    """

    timestep_list = RunAttribute()
    recipe = Recipe(helios_rows, VpOrFlow(fractional=True), reads=("disable_corrector", "predict_x0"))
    set_timesteps = own_times(diffusers.HeliosScheduler.set_timesteps)
    step = fused_step(
        diffusers.HeliosScheduler.step,
        HeliosSchedulerOutput,
        native=lambda scheduler, options: bool(scheduler.solver_p),
    )

    def _output_dtype(self, output: torch.dtype, sample: torch.dtype) -> torch.dtype:
        return output if self.config.scheduler_type == "euler" else sample

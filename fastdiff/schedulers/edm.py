"""Schedulers with EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1)."""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_edm_euler import EDMEulerSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.empty import around_empty_steps
from .base import FusedScheduler
from .dpm_solver_multistep import configured_rows
from .euler import check_input, churns, euler_rows
from .noise import output_noise
from .recipe import Recipe, Rows
from .run_state import Key, RunState, Scheduler
from .spaces import EDM, VE_SCHEDULE, Edm
from .step import fused_step, scale_model_input


class EDMEulerScheduler(FusedScheduler, diffusers.EDMEulerScheduler):
    """Euler's method; with s_churn, diffusers' own step."""

    recipe = Recipe(euler_rows, EDM, output_dtype="output", extra="converted", extra_in_float32=True)
    step = fused_step(
        diffusers.EDMEulerScheduler.step,
        EDMEulerSchedulerOutput,
        x0="pred_original_sample",
        native=churns,
        check=check_input,
    )
    scale_model_input = scale_model_input

    def _rows(self, run: RunState, key: Key) -> Rows:
        """With a key, for x0 itself in place of the model's output."""
        return euler_rows(self, run, EDM.points(self, run, run.begin), key) if key else super()._rows(run, key)


def edm_dpm_solver_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For a model that predicts x0."""

    def make(points: Points, places: list[int]) -> list[Row]:
        return configured_rows(scheduler, points, len(run.times), VE_SCHEDULE, "sample")

    return around_empty_steps(points, "sample", make)


class EDMDPMSolverMultistepScheduler(FusedScheduler, diffusers.EDMDPMSolverMultistepScheduler):
    """DPM-Solver++ of order 1 to 3, ODE and SDE (Lu et al. 2022, arXiv 2211.01095)."""

    recipe = Recipe(edm_dpm_solver_rows, Edm(fractional=True, absent_is_last=True), noise=output_noise)
    step = fused_step(diffusers.EDMDPMSolverMultistepScheduler.step, SchedulerOutput)
    scale_model_input = scale_model_input

"""UniPC: each step predicts, and corrects the sample that the step before predicted."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.empty import around_empty_steps
from ..plans.solvers.unipc import unipc
from .base import FusedScheduler
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import VpOrFlow, keep_one_time
from .step import fused_step


class UniPCSpace(VpOrFlow):
    """diffusers' own class takes sigmas and mu with use_flow_sigmas alone."""

    def is_native(self, scheduler: Scheduler, given: dict[str, object], names: Sequence[str]) -> bool:
        config = scheduler.config
        natively = config.use_flow_sigmas and config.use_dynamic_shifting == ("mu" in given)
        return not given or (natively and "timesteps" not in given)


def unipc_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For the scheduler's model. disable_corrector has numbers of the run's steps."""
    config, space = scheduler.config, scheduler.recipe.space

    def make(points: Points, places: list[int]) -> Sequence[Row]:
        return unipc(
            space.schedule(scheduler), points, config.prediction_type, order=config.solver_order,
            variant=config.solver_type, form="data" if scheduler.predict_x0 else "noise",
            uncorrected=[i for i, place in enumerate(places) if run.begin + place in scheduler.disable_corrector],
            lower_order_final=bool(config.lower_order_final),
        )  # fmt: skip

    return around_empty_steps(points, config.prediction_type, make)


class UniPCMultistepScheduler(FusedScheduler, diffusers.UniPCMultistepScheduler):
    """UniPC of order 1 to 3 (Zhao et al. 2023, arXiv 2302.04867); where solver_p predicts, diffusers' own step."""

    recipe = Recipe(
        unipc_rows, UniPCSpace(absent_is_last=True), output_dtype="sample", reads=("disable_corrector", "predict_x0")
    )
    step = fused_step(
        diffusers.UniPCMultistepScheduler.step,
        SchedulerOutput,
        native=lambda scheduler, options: bool(scheduler.solver_p),
    )
    stretch_shift_to_terminal = keep_one_time(diffusers.UniPCMultistepScheduler.stretch_shift_to_terminal)

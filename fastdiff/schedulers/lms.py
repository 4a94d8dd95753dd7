"""Linear multistep in sigma."""

from __future__ import annotations

from dataclasses import replace

import diffusers
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteSchedulerOutput

from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.solvers.adams import adams
from ..plans.solvers.empty import around_empty_steps
from .base import FusedScheduler
from .euler import check_input
from .recipe import Recipe
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import SIGMA, VE_SCHEDULE
from .step import fused_step, scale_model_input


def lms_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """D is eps; x0 = x - sigma eps is what the second line of each row gives. D of an empty step is x0."""
    order = min(int(key[0]) if key else 4, len(points.t) - 1)

    def make(points: Points, places: list[int]) -> list[Row]:
        return adams(VE_SCHEDULE, points, "sample", order=order, coordinate="sigma", lower_order_final=False)

    x0 = {
        "noise": lambda row: LinearUpdate(x=1.0, history=(-row.sigma,)),
        "data": lambda row: LinearUpdate(history=(1.0,)),
    }
    return [replace(row, base=x0[row.form](row)) for row in around_empty_steps(points, "sample", make)]


def check_first_input(scheduler: Scheduler, timestep: object, generator: Generators, options: dict) -> None:
    """diffusers refuses whole numbers here only as long as nothing has been scaled."""
    if not scheduler.is_scale_input_called:
        check_input(scheduler, timestep, generator, options)


class LMSDiscreteScheduler(FusedScheduler, diffusers.LMSDiscreteScheduler):
    """Linear multistep in sigma (k-diffusion's sample_lms)."""

    recipe = Recipe(lms_rows, SIGMA, extra="base")
    step = fused_step(
        diffusers.LMSDiscreteScheduler.step, LMSDiscreteSchedulerOutput, key=("order",), check=check_first_input
    )
    scale_model_input = scale_model_input

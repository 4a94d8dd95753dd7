"""Helios' schedulers of distilled models: to data, and with the stage's own noise back up."""

from __future__ import annotations

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_helios_dmd import HeliosDMDSchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.consistency import consistency
from .base import FusedScheduler
from .own_times import own_times
from .recipe import Recipe
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import FLOW_SCHEDULE, Flow, flow_points
from .step import fused_step


class Nearest(Flow):
    """diffusers cuts off a time's fraction, and takes the sigma of the time that is nearest to that."""

    def points(self, scheduler: Scheduler, run: RunState, begin: int) -> Points:
        apart = np.abs(run.times[:, None] - np.trunc(run.times[None, begin:]))
        return flow_points(run.host_sigmas[apart.argmin(0)])


def dmd_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """From each time to the next. key: the number of the step, whose end the row is for; the last one ends on data."""
    number, after = int(key[0]), flow_points(np.float64(0.0))
    if number + 1 < len(run.times):
        after = Nearest().points(scheduler, run, 0).at(number + 1)
    rows = []
    for i in range(len(points.t)):
        ends = Points(*(np.array(pair) for pair in zip(points.at(i), after, strict=True)))
        rows += consistency(FLOW_SCHEDULE, ends, "flow_prediction")
    return rows


def is_foreign(scheduler: Scheduler, options: dict) -> bool:
    """Whether a step is told times and sigmas of another run, which is left to diffusers."""
    own = {"dmd_sigmas": scheduler.sigmas, "dmd_timesteps": scheduler.timesteps, "all_timesteps": scheduler.timesteps}
    return any(options.get(name) is not mine for name, mine in own.items())


def no_noise(scheduler: Scheduler, run: RunState, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """Raises TypeError: a step draws nothing itself."""
    raise TypeError("dmd_noisy_tensor: expected the noise of a step that is not the last, got None")


class HeliosDMDScheduler(FusedScheduler, diffusers.HeliosDMDScheduler):
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1) with noise that is given."""

    recipe = Recipe(
        dmd_rows, Nearest(fractional=True), output_dtype="sample", noise=no_noise, keeps_output=False,
        steps_by_time=True,
    )  # fmt: skip
    set_timesteps = own_times(diffusers.HeliosDMDScheduler.set_timesteps)
    step = fused_step(
        diffusers.HeliosDMDScheduler.step,
        HeliosDMDSchedulerOutput,
        key=("cur_sampling_step",),
        noise="dmd_noisy_tensor",
        native=is_foreign,
    )

"""DDIM and its inverse: solvers on whole training times, whose step depends on its time alone."""

from __future__ import annotations

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddim_inverse import DDIMSchedulerOutput as DDIMInverseOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_clipped_row, ddim_row, step_down
from .base import FusedScheduler
from .noise import output_noise
from .recipe import Recipe, Rows
from .rows import attempt, with_noise
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import TRAINING_TIME
from .step import fused_step


def rows_between(starts: Points, ends: Points, make: object) -> Rows:
    """make(s, t) for each pair; where there is no such row, why."""
    return [attempt(lambda i=i: make(starts.at(i), ends.at(i))) for i in range(len(starts.t))]


def has_own_times(run: RunState) -> bool:
    """Whether the times are the caller's, each step's end the next of them."""
    return run.custom_timesteps and len(run.times) == len(run.timesteps)


def ends_of(scheduler: Scheduler, run: RunState) -> np.ndarray:
    """Where the step from each of the run's times ends: num_train_timesteps // n before it, or at the next of them."""
    if has_own_times(run):
        return np.append(run.times[1:], -1.0)
    return run.times - scheduler.config.num_train_timesteps // run.num_inference_steps


def ddim_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> Rows:
    """key: eta, and whether eps follows a bound on x0."""
    eta, reuse = key
    prediction = scheduler.config.prediction_type
    clipped = not reuse and any(scheduler._bounds())

    def make(s: Points, t: Points) -> Row:
        if clipped:
            row = ddim_clipped_row(s, t, prediction, *step_down(s, t, eta))
        else:
            row = ddim_row(s, t, prediction, 1, eta)
        return with_noise(row) if eta > 0 else row

    return rows_between(points, run.at(ends_of(scheduler, run)[run.begin :]), make)


def check_noise(scheduler: Scheduler, timestep: object, generator: Generators, options: dict) -> None:
    """Raises ValueError where the noise is given twice."""
    if generator is not None and options.get("variance_noise") is not None and options.get("eta", 0.0) > 0:
        raise ValueError("variance_noise: expected no generator beside it, got both")


class DDIMScheduler(FusedScheduler, diffusers.DDIMScheduler):
    """DDIM with any eta (Song et al. 2021, arXiv 2010.02502, eq. 12)."""

    recipe = Recipe(ddim_rows, TRAINING_TIME, extra="converted", noise=output_noise, steps_by_time=True)
    step = fused_step(
        diffusers.DDIMScheduler.step, DDIMSchedulerOutput, key=("eta", "use_clipped_model_output"), check=check_noise
    )


def inverse_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> Rows:
    """From a step before each of the times up to it."""
    total = scheduler.config.num_train_timesteps
    before = np.minimum(run.times - total // run.num_inference_steps, total - 1)
    if has_own_times(run):
        before = np.append(-1.0, run.times[:-1])
    starts, ends = TRAINING_TIME.starts(scheduler, run, before[run.begin :]), run.at(run.times[run.begin :])
    return rows_between(starts, ends, lambda s, t: ddim_clipped_row(s, t, scheduler.config.prediction_type))


class DDIMInverseScheduler(FusedScheduler, diffusers.DDIMInverseScheduler):
    """DDIM towards more noise: step's sample is one step less noisy than its time."""

    recipe = Recipe(
        inverse_rows, TRAINING_TIME, extra="converted", steps_by_time=True, final_alpha="initial_alpha_cumprod"
    )
    step = fused_step(diffusers.DDIMInverseScheduler.step, DDIMInverseOutput)

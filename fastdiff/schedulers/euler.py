"""Euler's method in sigma, for x = x0 + sigma eps, and its ancestral form."""

from __future__ import annotations

import diffusers
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from diffusers.utils import logging
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from .base import FusedScheduler
from .noise import output_noise
from .recipe import Recipe
from .rows import with_noise
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import SIGMA
from .step import fused_step, scale_model_input

logger = logging.get_logger(__name__)


def check_time(scheduler: Scheduler, timestep: object, generator: Generators, options: dict) -> None:
    """Raises ValueError for whole numbers, which are not times of a class whose model reads fractional ones."""
    if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
        raise ValueError(
            f"timestep: expected an element of scheduler.timesteps, got {timestep!r}; whole numbers, as from"
            " enumerate(timesteps), are not times of this scheduler"
        )


def check_input(scheduler: Scheduler, timestep: object, generator: Generators, options: dict) -> None:
    """The same, and warns where the model has read x itself."""
    check_time(scheduler, timestep, generator, options)
    if not scheduler.is_scale_input_called:
        logger.warning("scale_model_input was not called before step: the model's input has the wrong scale")


def churns(scheduler: Scheduler, options: dict) -> bool:
    """Whether a step adds noise before the model's output counts, which is left to diffusers."""
    return options.get("s_churn", 0.0) > 0


def euler_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """From each point to the next, for a model that predicts x0."""
    return [ddim_row(points.at(i), points.at(i + 1), "sample", 1) for i in range(len(points.t) - 1)]


def ancestral_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """The same with eta = 1."""
    steps = range(len(points.t) - 1)
    return [with_noise(ddim_row(points.at(i), points.at(i + 1), "sample", 1, 1.0)) for i in steps]


class EulerDiscreteScheduler(FusedScheduler, diffusers.EulerDiscreteScheduler):
    """Euler's method (Karras et al. 2022, arXiv 2206.00364, algorithm 2); with s_churn, diffusers' own step."""

    recipe = Recipe(euler_rows, SIGMA, output_dtype="output", extra="converted", extra_in_float32=True)
    step = fused_step(
        diffusers.EulerDiscreteScheduler.step, EulerDiscreteSchedulerOutput, native=churns, check=check_input
    )
    scale_model_input = scale_model_input


class EulerAncestralDiscreteScheduler(FusedScheduler, diffusers.EulerAncestralDiscreteScheduler):
    """Euler's method to below the next sigma, and fresh noise back up to it (k-diffusion's sample_euler_ancestral)."""

    recipe = Recipe(
        ancestral_rows, SIGMA, output_dtype="output", extra="converted", extra_in_float32=True, noise=output_noise
    )
    step = fused_step(
        diffusers.EulerAncestralDiscreteScheduler.step, EulerAncestralDiscreteSchedulerOutput, check=check_input
    )
    scale_model_input = scale_model_input

"""CosineDPMSolverMultistep: DPM-Solver++'s SDE with EDM's preconditioning and Brownian noise over sigma."""

from __future__ import annotations

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.empty import around_empty_steps
from .base import FusedScheduler
from .dpm_solver_multistep import multistep_rows
from .dpm_solver_sde import drawn_seed
from .recipe import Recipe
from .run_state import Generators, Key, RunAttribute, RunState, Scheduler
from .spaces import VE_SCHEDULE, Edm
from .step import fused_step, scale_model_input


class Cosine(Edm):
    """EDM's preconditioning; the model's time is 2 atan(sigma) / pi."""

    def time_of(self, scheduler: Scheduler, sigmas: np.ndarray) -> np.ndarray:
        return np.arctan(sigmas) / np.pi * 2

    def sigma_of(self, times: np.ndarray) -> np.ndarray:
        return np.tan(times * np.pi / 2)


def cosine_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For a model that predicts x0."""

    def make(points: Points, places: list[int]) -> list[Row]:
        return multistep_rows(scheduler, points, len(run.times), VE_SCHEDULE, "sample", "sde-dpmsolver++")

    return around_empty_steps(points, "sample", make)


def path_noise(scheduler: Scheduler, run: RunState, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """The increment of a Brownian path over the step's sigmas, in the wider dtype of the model's output and x."""
    if run.noise_sampler is None:
        run.noise_seed = _seed(generator)
        like = torch.empty_like(x, dtype=torch.promote_types(m.dtype, x.dtype))
        config = scheduler.config
        run.noise_sampler = BrownianTreeNoiseSampler(like, config.sigma_min, config.sigma_max, run.noise_seed)
    return run.noise_sampler(run.sigmas[step], run.sigmas[step + 1])


def _seed(generator: Generators) -> int | list[int]:
    """The path's seed: what the generators were first seeded with, as in diffusers; drawn where there is none."""
    if generator is None:
        return drawn_seed(None)
    return [one.initial_seed() for one in generator] if isinstance(generator, list) else generator.initial_seed()


class CosineDPMSolverMultistepScheduler(FusedScheduler, diffusers.CosineDPMSolverMultistepScheduler):
    """DPM-Solver++'s SDE of order 1 to 3 (Lu et al. 2022, arXiv 2211.01095), as Stable Audio uses it."""

    noise_sampler = RunAttribute()
    recipe = Recipe(cosine_rows, Cosine(fractional=True, absent_is_last=True), noise=path_noise)
    step = fused_step(diffusers.CosineDPMSolverMultistepScheduler.step, SchedulerOutput)
    scale_model_input = scale_model_input

    def _mend_times(self, run: RunState) -> None:
        """sigma_min ends the grid already: as its end it is the same level, not another rounding of it."""
        if self.config.final_sigmas_type == "sigma_min":
            run.sigmas[-1] = run.sigmas[-2]

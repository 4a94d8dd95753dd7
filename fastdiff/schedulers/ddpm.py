"""DDPM: the posterior of the diffusion process, whose variance the model may predict too."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from .base import FusedScheduler
from .ddim import rows_between
from .noise import output_noise
from .recipe import Recipe, Rows
from .run_state import Generators, Key, RunState, Scheduler
from .spaces import TrainingTime
from .step import fused_step


def ddpm_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> Rows:
    """From each of the times to the next."""

    def make(s: Points, t: Points) -> Row:
        row = ddim_row(s, t, scheduler.config.prediction_type, 1, 1.0)
        noise = ((1, _spread(scheduler, s, t)),) if s.t > 0 else ()
        return replace(row, x=replace(row.x, noise=noise))

    return rows_between(points, _ends(run).at(slice(run.begin, None)), make)


def _ends(run: RunState) -> Points:
    """Where each step ends: at the next of its times."""
    listed = len(run.times) == len(run.timesteps)
    return run.at(np.append(run.times[1:], -1.0) if listed else run.times - 1)


def _spread(scheduler: Scheduler, s: Points, t: Points) -> float:
    """The standard deviation of the noise; 1 where the model predicts it."""
    if scheduler.variance_type.startswith("learned"):
        return 1.0
    small, large = variances(s, t)
    return math.sqrt(large if scheduler.config.variance_type.startswith("fixed_large") else small)


def variances(s: Points, t: Points) -> tuple[float, float]:
    """The posterior's variance and beta, the least and the most that the noise may have."""
    beta = 1 - float(s.alpha / t.alpha) ** 2
    return max(beta * float(t.sigma / s.sigma) ** 2, 1e-20), beta


def ddpm_noise(scheduler: Scheduler, run: RunState, step: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
    """Times the standard deviation that the model predicts, if it does (Nichol & Dhariwal 2021, eq. 15)."""
    drawn = output_noise(scheduler, run, step, m, x, generator)
    if not scheduler.variance_type.startswith("learned") or m.shape == x.shape:
        return drawn
    predicted = m[:, x.shape[1] :]
    if scheduler.variance_type == "learned":
        return drawn * predicted.sqrt()
    return learned_noise(drawn, predicted, variances(run.at(run.times[step]), _ends(run).at(step)))


def learned_noise(drawn: Tensor, predicted: Tensor, limits: tuple[float, float]) -> Tensor:
    """The noise of a variance between the limits, on a logarithmic scale from -1 to 1 (the same paper's)."""
    small, large = (math.log(variance) for variance in limits)
    return drawn * torch.exp(0.25 * (predicted + 1) * (large - small) + 0.5 * small)


class DDPMScheduler(FusedScheduler, diffusers.DDPMScheduler):
    """The posterior of the diffusion process (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""

    recipe = Recipe(
        ddpm_rows,
        TrainingTime(ready=True),
        extra="converted",
        noise=ddpm_noise,
        steps_by_time=True,
        reads=("variance_type",),
        final_alpha="one",
    )
    step = fused_step(diffusers.DDPMScheduler.step, DDPMSchedulerOutput)

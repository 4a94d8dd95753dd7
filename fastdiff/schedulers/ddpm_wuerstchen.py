"""Wuerstchen's DDPM: continuous times of a cosine schedule, given for each sample, which all step alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenSchedulerOutput
from torch import Tensor

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.ancestral import ddim_row
from .base import FusedScheduler
from .direct import direct_step, told
from .noise import output_noise
from .opaque import opaque
from .recipe import Recipe
from .run_state import Generators, Scheduler, new_run
from .space import Space


def points_at(scheduler: Scheduler, time: float) -> Points:
    """Of a cosine schedule, its time bent by the scaler, with alpha^2 kept from 1e-4 to 0.9999 as in diffusers."""
    scaler, s = scheduler.scaler, scheduler.config.s
    bent = 1 - (1 - time) ** scaler if scaler > 1 else time**scaler
    start, here = (math.cos((u + s) / (1 + s) * math.pi / 2) ** 2 for u in (0.0, bent))
    alpha2 = np.float64(min(max(here / start, 1e-4), 0.9999))
    return Points(np.float64(time), np.sqrt(alpha2), np.sqrt(1 - alpha2))


def posterior_row(scheduler: Scheduler, time: float, end: float) -> Row:
    """The posterior of the diffusion process, without noise at time 0, where the schedule ends on some."""
    row = ddim_row(points_at(scheduler, time), points_at(scheduler, end), "epsilon", 1, 1.0)
    return row if end else replace(row, x=replace(row.x, noise=((1, 0.0),)))


class DDPMWuerstchenScheduler(FusedScheduler, diffusers.DDPMWuerstchenScheduler):
    """The posterior of the diffusion process (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""

    recipe = Recipe(None, Space(fractional=True, run_tensors=("timesteps",)), reads=("scaler",))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Set the times of a run, from 1 to 0, the end included. timesteps: instead, all of them."""
        with new_run(self):
            super(FusedScheduler, self).set_timesteps(num_inference_steps, timesteps, device)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DDPMWuerstchenSchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] at the time that follows in timesteps.

        model_output, sample: [B, ...]. timestep: [B], of which the first counts, or a scalar.
        """
        (new,) = self._step(model_output, timestep, sample, generator)
        return DDPMWuerstchenSchedulerOutput(new) if return_dict else (new,)

    @opaque()
    def _step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, generator: Generators
    ) -> tuple[Tensor]:
        run, time = told(self, timestep)
        end = float(run.times[np.abs(run.times - time).argmin() + 1])
        drawn = output_noise(self, run, 0, model_output, sample, generator).to(sample.device)
        make = lambda: posterior_row(self, time, end)  # noqa: E731
        new, _, _ = direct_step(self, run, (time, end), make, sample, model_output, (drawn,))
        return (new.to(model_output.dtype),)

"""The midpoint rule in sigma, with the middle where two logarithms of sigma meet, and its ancestral form."""

from __future__ import annotations

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import KDPM2AncestralDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteSchedulerOutput

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.karras import dpm_2, dpm_2_ancestral
from .base import FusedScheduler
from .heun import state_in_first_order
from .noise import output_noise
from .recipe import Recipe
from .run_state import Key, RunState, Scheduler
from .spaces import SIGMA_TWICE, VE_SCHEDULE
from .step import fused_step, scale_model_input


def kdpm2_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """For a model that predicts x0."""
    return dpm_2(VE_SCHEDULE, points, "sample", coordinate="sigma")


def ancestral_rows(scheduler: Scheduler, run: RunState, points: Points, key: Key) -> list[Row]:
    """The same."""
    return dpm_2_ancestral(VE_SCHEDULE, points, "sample")


class KDPM2DiscreteScheduler(FusedScheduler, diffusers.KDPM2DiscreteScheduler):
    """The midpoint rule at the geometric middle of each step (k-diffusion's sample_dpm_2)."""

    recipe = Recipe(kdpm2_rows, SIGMA_TWICE, extra="converted")
    step = fused_step(diffusers.KDPM2DiscreteScheduler.step, KDPM2DiscreteSchedulerOutput)
    scale_model_input = scale_model_input
    state_in_first_order = state_in_first_order


class KDPM2AncestralDiscreteScheduler(FusedScheduler, diffusers.KDPM2AncestralDiscreteScheduler):
    """Ancestral steps of KDPM2 (k-diffusion's sample_dpm_2_ancestral)."""

    recipe = Recipe(ancestral_rows, SIGMA_TWICE, extra="converted", noise=output_noise)
    step = fused_step(diffusers.KDPM2AncestralDiscreteScheduler.step, KDPM2AncestralDiscreteSchedulerOutput)
    scale_model_input = scale_model_input
    state_in_first_order = state_in_first_order

    def _mend_times(self, run: RunState) -> None:
        """Noise of variance sigma_next^2 - sigma_down^2 follows a step from sigma to sigma_down = sigma_next^2 / sigma.

        So the geometric middle of sigma and sigma_down, where the second evaluation is, is sigma_next itself. diffusers
        subtracts squares, and on steep schedules (cosine) nothing is left of sigma_down in float32.
        """
        sigma = np.append(run.sigmas[:1], run.sigmas[1:-1:2]).astype(np.float64)  # without repetitions
        after = np.append(sigma[1:], 0.0)
        down = np.divide(after**2, sigma, out=np.zeros_like(sigma), where=sigma > 0)
        up = np.sqrt(after**2 - down**2)
        for name, values in (("sigmas_interpol", after), ("sigmas_down", down), ("sigmas_up", up)):
            twice = np.concatenate([values[:1], np.repeat(values[1:], 2), values[-1:]])
            setattr(self, name, torch.from_numpy(twice).to(run.sigmas.dtype))
        middles = self._sigma_to_t(after[:-2], self.log_sigmas.cpu().numpy())
        run.timesteps[1::2] = torch.from_numpy(middles).to(run.timesteps)

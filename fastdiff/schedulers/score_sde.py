"""Predictor and corrector of the score-based SDEs (Song et al. 2021, arXiv 2011.13456)."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import torch
from diffusers.schedulers import ScoreSdeVpScheduler as DiffusersScoreSdeVp
from diffusers.schedulers.scheduling_sde_ve import SdeVeOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..plans.row import OUTPUT, LinearUpdate, Row
from .base import FusedScheduler
from .direct import direct_step, told
from .noise import sample_noise
from .opaque import opaque
from .recipe import Recipe
from .run_state import Generators, RunAttribute, new_run
from .space import Space


def euler_maruyama_row(t: float, x: float, m: float, spread: float) -> Row:
    """base' = x_weight x + m_weight m, and x' with noise besides."""
    mean = LinearUpdate(x=x, noise=((OUTPUT, m),))
    return Row(t, 1.0, 0.0, "mixed", 0.0, 1.0, LinearUpdate(x=x, noise=(*mean.noise, (1, spread))), mean)


class ScoreSdeVeScheduler(FusedScheduler, diffusers.ScoreSdeVeScheduler):
    """The variance-exploding SDE: ancestral steps (appendix F) and Langevin corrections (algorithm 4)."""

    sigmas, discrete_sigmas = RunAttribute(), RunAttribute()
    recipe = Recipe(None, Space(fractional=True, run_tensors=("timesteps", "discrete_sigmas")))

    def set_timesteps(
        self, num_inference_steps: int, sampling_eps: float | None = None, device: str | torch.device | None = None
    ) -> None:
        """Set the times of a run, from 1 to sampling_eps; its levels stay those of set_sigmas."""
        before = self._threads.run
        with new_run(self) as run:
            run.sigmas, run.discrete_sigmas = (getattr(before, name, None) for name in ("sigmas", "discrete_sigmas"))
            super(FusedScheduler, self).set_timesteps(num_inference_steps, sampling_eps, device)

    def step_pred(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SdeVeOutput | tuple[Tensor, Tensor]:
        """The sample at the next lower level, and its mean, each [B, ...].

        model_output, sample: [B, ...]; the model predicts the score. timestep: in [0, 1]; one for each sample is
        diffusers' own code.
        """
        if self.timesteps is None:
            raise ValueError("timesteps: expected set_timesteps to be called before step_pred")
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            return super().step_pred(model_output, timestep, sample, generator, return_dict)
        made = self._predict(model_output, timestep, sample, generator)
        return SdeVeOutput(*made) if return_dict else made

    @opaque(results=2)
    def _predict(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        run, time = told(self, timestep)
        # In the times' own precision: rounding decides which level it is.
        place = int(np.asarray(time, run.timesteps.cpu().numpy().dtype) * (len(run.times) - 1))
        sigma, lower = run.host_sigmas[place], run.host_sigmas[place - 1] if place else 0.0
        variance = float((sigma - lower) * (sigma + lower))
        drawn = sample_noise(self, run, 0, model_output, sample, generator)
        make = lambda: euler_maruyama_row(time, 1.0, variance, math.sqrt(variance))  # noqa: E731
        operands, result = (model_output, drawn), torch.promote_types(sample.dtype, run.discrete_sigmas.dtype)
        new, mean, _ = direct_step(self, run, (place,), make, sample, model_output, operands, result=result)
        return new, mean.to(new.dtype)

    def step_correct(
        self, model_output: Tensor, sample: Tensor, generator: Generators = None, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample [B, ...] after a step of Langevin dynamics: x + e m + (2 e)^1/2 xi, e = 2 (snr |xi| / |m|)^2.

        The norms are means over the batch, and stay on the device.
        """
        if self.timesteps is None:
            raise ValueError("timesteps: expected set_timesteps to be called before step_correct")
        sample = sample.to(torch.promote_types(sample.dtype, torch.float32))  # as diffusers' step lengths make it
        noise = randn_tensor(sample.shape, generator=generator).to(sample.device)
        score = model_output.to(sample.dtype)
        norms = (torch.linalg.vector_norm(one.flatten(1), dim=1).mean() for one in (noise, score))
        ratio = self.config.snr * torch.div(*norms)
        # Two passes: half of what the fused step takes, which would write D too.
        new = torch.addcmul(torch.addcmul(sample, score, 2 * ratio**2), noise.to(sample.dtype), 2 * ratio)
        return SchedulerOutput(new) if return_dict else (new,)


class ScoreSdeVpScheduler(FusedScheduler, DiffusersScoreSdeVp):
    """The variance-preserving SDE: Euler and Maruyama's steps (appendix D), as in diffusers of a model of noise."""

    recipe = Recipe(None, Space(fractional=True, run_tensors=("timesteps",)))

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the times of a run, from 1 to sampling_eps."""
        with new_run(self):
            super(FusedScheduler, self).set_timesteps(num_inference_steps, device)

    def step_pred(
        self, score: Tensor, x: Tensor, t: float | Tensor, generator: Generators = None
    ) -> tuple[Tensor, Tensor]:
        """The sample at the next time, and its mean, each [B, ...].

        score: [B, ...] the noise as the model predicts it. t: in (0, 1]; one for each sample is diffusers' own code.
        """
        if self.timesteps is None:
            raise ValueError("timesteps: expected set_timesteps to be called before step_pred")
        if isinstance(t, Tensor) and t.numel() > 1:
            return super().step_pred(score, x, t, generator)
        return self._predict(score, t, x, generator)

    @opaque(results=2)
    def _predict(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        run, t = told(self, timestep)
        low, rise, dt = self.config.beta_min, self.config.beta_max - self.config.beta_min, 1 / len(run.times)
        beta, sigma = low + t * rise, math.sqrt(-math.expm1(-(t**2) * rise / 2 - t * low))
        drawn = sample_noise(self, run, 0, model_output, sample, generator)
        row = (t, 1 + beta * dt / 2, -beta * dt / sigma, math.sqrt(beta * dt))
        make, operands = lambda: euler_maruyama_row(*row), (model_output, drawn)
        result = torch.promote_types(sample.dtype, run.timesteps.dtype)  # diffusers' factors are tensors
        new, mean, _ = direct_step(self, run, (t,), make, sample, model_output, operands, result=result)
        return new, mean.to(new.dtype)

"""Solvers in the noise level s with two evaluations a step: Heun, DPM2, its ancestral form, and DPM++ SDE."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler, DPMSolverSDESchedulerOutput
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import KDPM2AncestralDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteSchedulerOutput
from torch import Tensor

from ..plan import Row
from ..schedule import Points
from ..solvers.karras import dpm_2, dpm_2_ancestral, heun
from ..solvers.sde import dpmpp_sde
from .fused import Fused
from .noise_level import InNoiseLevel
from .points import EDM, level_points
from .state import OfRun, RunState
from .table import one_noise

Generators = torch.Generator | list[torch.Generator] | None


class TwoStage(Fused):
    """timesteps names each evaluation, so each noise level but the first comes twice; the last step has one."""

    _result = "both"

    def _points(self, run: RunState, begin: int) -> Points:
        """The levels that steps begin and end at."""
        levels = np.append(run.levels[:1], run.levels[1::2][: (len(run.times) + 1) // 2])
        return level_points(levels[(begin + 1) // 2 :])

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        if timesteps is None and sigmas is None:
            return run.timesteps.double().cpu().numpy(), run.sigmas.double().cpu().numpy()
        starts, levels = super()._placed(run, count, timesteps=timesteps, sigmas=sigmas, mu=mu)
        rows = self._level_rows(level_points(levels), ())
        times = self._time_of(np.array([row.sigma for row in rows]))
        times[::2] = starts
        return times, np.concatenate([levels[:1], np.repeat(levels[1:-1], 2), levels[-1:]])

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation begins a step; diffusers' own step keeps dt until it ends."""
        run = self._threads.run
        return run.last_sample is None and getattr(run, "dt", None) is None

    @property
    def _clamp(self) -> float | None:
        config = self.config
        return config.clip_sample_range if getattr(config, "clip_sample", False) else None


class HeunDiscreteScheduler(TwoStage, InNoiseLevel, diffusers.HeunDiscreteScheduler):
    """Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> HeunDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """(where the model is evaluated next, x0), each [B, ...]."""
        new, x0 = self._advance(model_output, timestep, sample)
        x0 = x0.to(new.dtype)
        return HeunDiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        return heun(EDM, points, "sample", coordinate="sigma")


class KDPM2DiscreteScheduler(TwoStage, InNoiseLevel, diffusers.KDPM2DiscreteScheduler):
    """The midpoint rule at the geometric middle of each step (k-diffusion's sample_dpm_2)."""

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> KDPM2DiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """(where the model is evaluated next, x0), each [B, ...]."""
        new, x0 = self._advance(model_output, timestep, sample)
        x0 = x0.to(new.dtype)
        return KDPM2DiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        return dpm_2(EDM, points, "sample", coordinate="sigma")


class KDPM2AncestralDiscreteScheduler(TwoStage, InNoiseLevel, diffusers.KDPM2AncestralDiscreteScheduler):
    """Ancestral steps of KDPM2 (k-diffusion's sample_dpm_2_ancestral)."""

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> KDPM2AncestralDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """(where the model is evaluated next, x0), each [B, ...]."""
        new, x0 = self._advance(model_output, timestep, sample, generator=generator)
        x0 = x0.to(new.dtype)
        if not return_dict:
            return new, x0
        return KDPM2AncestralDiscreteSchedulerOutput(prev_sample=new, pred_original_sample=x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        return dpm_2_ancestral(EDM, points, "sample")


class DPMSolverSDEScheduler(TwoStage, InNoiseLevel, diffusers.DPMSolverSDEScheduler):
    """DPM++ SDE (k-diffusion's sample_dpmpp_sde), with diffusers' Brownian noise over s (needs torchsde)."""

    noise_sampler, mid_point_sigma = OfRun(), OfRun()

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        s_noise: float = 1.0,
    ) -> DPMSolverSDESchedulerOutput | tuple[Tensor, Tensor]:
        """(where the model is evaluated next, x0), each [B, ...]."""
        new, x0 = self._advance(model_output, timestep, sample, key=(s_noise,))
        x0 = x0.to(new.dtype)
        return DPMSolverSDESchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        rows = dpmpp_sde(EDM, points, "sample", s_noise=key[0] if key else 1.0)
        return [one_noise(row) for row in rows]

    def _noise(self, run: RunState, i: int, m: Tensor, x: Tensor, generator: None) -> Tensor:
        if run.noise_sampler is None:
            levels = run.sigmas[run.sigmas > 0]
            run.noise_sampler = BrownianTreeNoiseSampler(
                x, levels.min().item(), levels.max().item(), self.noise_sampler_seed
            )  # fmt: skip
        first = i - (i - run.begin) % 2
        # The path is rough: the noise is the same only if the ends are, to the last bit of float32.
        t, t_next = run.sigmas[first : first + 2].log().neg()
        end = t + (t_next - t) * 0.5 if i == first else t_next
        return run.noise_sampler(t.neg().exp(), end.neg().exp())

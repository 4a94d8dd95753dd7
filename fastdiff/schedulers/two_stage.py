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

from ..plans.row import Row
from ..plans.schedule import Points
from ..plans.solvers.karras import dpm_2, dpm_2_ancestral, heun
from ..plans.solvers.sde import dpmpp_sde
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
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
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
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
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

    def _mend(self, run: RunState) -> None:
        """From s, noise of variance s_next^2 - s_down^2 follows a step down to s_down = s_next^2 / s.

        So the geometric middle of s and s_down, where the second evaluation is, is s_next itself. diffusers subtracts
        squares, and on steep schedules (cosine) nothing is left of s_down in float32.
        """
        s = np.append(run.sigmas[:1], run.sigmas[1:-1:2]).astype(np.float64)  # without repetitions
        after = np.append(s[1:], 0.0)
        down = np.divide(after**2, s, out=np.zeros_like(s), where=s > 0)
        up = np.sqrt(after**2 - down**2)
        for name, values in (("sigmas_interpol", after), ("sigmas_down", down), ("sigmas_up", up)):
            twice = np.concatenate([values[:1], np.repeat(values[1:], 2), values[-1:]])
            setattr(self, name, torch.from_numpy(twice).to(run.sigmas.dtype))
        middles = self._sigma_to_t(after[:-2], self.log_sigmas.cpu().numpy())
        run.timesteps[1::2] = torch.from_numpy(middles).to(run.timesteps)


class DPMSolverSDEScheduler(TwoStage, InNoiseLevel, diffusers.DPMSolverSDEScheduler):
    """DPM++ SDE (k-diffusion's sample_dpmpp_sde), with diffusers' Brownian noise over s (needs torchsde).

    The noise's seed is `noise_sampler_seed`, else drawn: from the generator that the first step is given, if any.
    """

    noise_sampler, mid_point_sigma = OfRun(), OfRun()

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        s_noise: float = 1.0,
        generator: Generators = None,
    ) -> DPMSolverSDESchedulerOutput | tuple[Tensor, Tensor]:
        """(where the model is evaluated next, x0), each [B, ...]."""
        new, x0 = self._advance(model_output, timestep, sample, generator=generator, key=(s_noise,))
        x0 = x0.to(new.dtype)
        return DPMSolverSDESchedulerOutput(prev_sample=new, pred_original_sample=x0) if return_dict else (new, x0)

    def _level_rows(self, points: Points, key: tuple[float, ...]) -> list[Row]:
        rows = dpmpp_sde(EDM, points, "sample", s_noise=key[0] if key else 1.0)
        return [one_noise(row) for row in rows]

    def _noise(self, run: RunState, i: int, m: Tensor, x: Tensor, generator: Generators) -> Tensor:
        if run.noise_sampler is None:
            if run.noise_seed is None:
                given = self.noise_sampler_seed
                run.noise_seed = _drawn_seed(generator) if given is None else given
            levels = run.sigmas[run.sigmas > 0]
            run.noise_sampler = BrownianTreeNoiseSampler(x, levels.min().item(), levels.max().item(), run.noise_seed)
        first = i - (i - run.begin) % 2
        # The path is rough: the noise is the same only if the ends are, to the last bit of float32.
        t, t_next = run.sigmas[first : first + 2].log().neg()
        end = t + (t_next - t) * 0.5 if i == first else t_next
        return run.noise_sampler(t.neg().exp(), end.neg().exp())


def _drawn_seed(generator: Generators) -> int | list[int]:
    """A Brownian tree's seed, as torchsde draws it; one for each sample from a list of generators."""
    if isinstance(generator, list):
        return [_drawn_seed(one) for one in generator]
    device = None if generator is None else generator.device
    return torch.randint(0, 2**63 - 1, [], generator=generator, device=device).item()

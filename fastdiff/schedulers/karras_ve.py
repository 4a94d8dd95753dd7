"""KarrasVe: churn, Euler and Heun's correction in three calls, whose levels the caller hands from one to the next.

The model's output is m = (x0 - x) / sigma, so the slope of the ODE is -m.
"""

from __future__ import annotations

from weakref import ref

import diffusers
import torch
from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..plans.row import OUTPUT, LinearUpdate, Row
from .base import FusedScheduler
from .direct import direct_step, place_in
from .opaque import opaque
from .recipe import Recipe
from .run_state import Generators, RunAttribute, RunState, new_run
from .space import Space

MAX_CHURN = 2**0.5 - 1


def euler_row(sigma_hat: float, sigma_prev: float) -> Row:
    """x + (sigma_prev - sigma_hat) slope; base' is the slope, and D is x0."""
    line = LinearUpdate(x=1.0, noise=((OUTPUT, sigma_hat - sigma_prev),))
    return Row(sigma_hat, 1.0, sigma_hat, "data", 1.0, sigma_hat, line, LinearUpdate(noise=((OUTPUT, -1.0),)))


def heun_row(sigma_hat: float, sigma_prev: float) -> Row:
    """From the base with the mean of its slope, operand 1, and of the slope at x; D is x0."""
    half = (sigma_prev - sigma_hat) / 2
    line = LinearUpdate(base=1.0, noise=((OUTPUT, -half), (1, half)))
    return Row(sigma_prev, 1.0, sigma_prev, "data", 1.0, sigma_prev, line)


class KarrasVeScheduler(FusedScheduler, diffusers.KarrasVeScheduler):
    """The stochastic sampler of Karras et al. 2022 (arXiv 2206.00364, algorithm 2)."""

    schedule = RunAttribute()
    recipe = Recipe(None, Space(run_tensors=("timesteps", "schedule")))

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the levels of a run, in `schedule`, and their places from the largest down, in `timesteps`."""
        with new_run(self) as run:
            super(FusedScheduler, self).set_timesteps(num_inference_steps, device)
            if num_inference_steps == 1:  # where diffusers divides by 0
                run.schedule = torch.full_like(run.schedule, self.config.sigma_max**2)

    def add_noise_to_input(
        self, sample: Tensor, sigma: float | Tensor, generator: Generators = None
    ) -> tuple[Tensor, float | Tensor]:
        """(the sample [B, ...] with more noise, the level that it has then). sigma: the level that it has."""
        run, level = self._level(sigma)
        config = self.config
        churns = config.s_min <= level <= config.s_max
        gamma = min(config.s_churn / run.num_inference_steps, MAX_CHURN) if churns else 0.0
        noise = randn_tensor(sample.shape, generator=generator).to(sample.device)
        spread = config.s_noise * level * (gamma * (gamma + 2)) ** 0.5  # (sigma_hat^2 - sigma^2)^1/2
        sigma_hat = sigma + gamma * sigma
        if isinstance(sigma_hat, Tensor):
            run.hat = ref(sigma_hat), level + gamma * level
        return torch.add(sample, noise, alpha=spread), sigma_hat

    def step(
        self,
        model_output: Tensor,
        sigma_hat: float | Tensor,
        sigma_prev: float | Tensor,
        sample_hat: Tensor,
        return_dict: bool = True,
    ) -> KarrasVeOutput | tuple[Tensor, Tensor]:
        """Euler's step from sigma_hat to sigma_prev: the sample, the slope and x0, each [B, ...]."""
        new, slope, x0 = self._euler(model_output, sigma_hat, sample_hat, sigma_prev)
        return KarrasVeOutput(new, slope, x0) if return_dict else (new, slope)

    def step_correct(
        self,
        model_output: Tensor,
        sigma_hat: float | Tensor,
        sigma_prev: float | Tensor,
        sample_hat: Tensor,
        sample_prev: Tensor,
        derivative: Tensor,
        return_dict: bool = True,
    ) -> KarrasVeOutput | tuple[Tensor, Tensor]:
        """Heun's step, of the output at sigma_prev: the sample, the slope that was given and x0, each [B, ...]."""
        new, x0 = self._heun(model_output, sigma_hat, sample_prev, sigma_prev, sample_hat, derivative)
        return KarrasVeOutput(new, derivative, x0) if return_dict else (new, derivative)

    @opaque(results=3)
    def _euler(
        self, model_output: Tensor, sigma_hat: float | Tensor, sample: Tensor, sigma_prev: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        (run, hat), (_, prev) = self._level(sigma_hat), self._level(sigma_prev)
        make = lambda: euler_row(hat, prev)  # noqa: E731
        new, slope, x0 = direct_step(self, run, (hat, prev), make, sample, model_output, (model_output,))
        return new, slope.to(model_output.dtype), x0.to(new.dtype)

    @opaque(results=2)
    def _heun(
        self,
        model_output: Tensor,
        sigma_hat: float | Tensor,
        sample: Tensor,
        sigma_prev: float | Tensor,
        sample_hat: Tensor,
        derivative: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (run, hat), (_, prev) = self._level(sigma_hat), self._level(sigma_prev)
        make, operands = lambda: heun_row(hat, prev), (model_output, derivative)
        new, _, x0 = direct_step(self, run, (hat, prev, 2), make, sample, model_output, operands, sample_hat)
        return new, x0.to(new.dtype)

    def _level(self, sigma: float | Tensor) -> tuple[RunState, float]:
        """(the run, a level), without reading an element of its schedule or what add_noise_to_input has returned."""
        runs = self._threads.runs
        for run in runs:
            place = place_in(getattr(run, "schedule", None), sigma)
            if place is not None:
                self._refresh(run)
                return run, float(run.host_sigmas[place])
            if run.hat is not None and run.hat[0]() is sigma:
                return run, run.hat[1]
        self._refresh(runs[0])
        return runs[0], float(sigma)

"""MaskGIT's decoding, as aMUSEd uses it: the surest tokens stay, by a schedule of how many are still masked."""

from __future__ import annotations

import math

import diffusers
import torch
from diffusers.schedulers.scheduling_amused import AmusedSchedulerOutput
from torch import Tensor

from ..ops import token_stats
from .base import TokenScheduler, at, begins_anew, ranks


class AmusedScheduler(TokenScheduler, diffusers.AmusedScheduler):
    """Chang et al. 2022, arXiv:2202.04200, by confidence + temperature Gumbel (Patil et al. 2024, arXiv:2401.01808)."""

    temperatures: Tensor
    set_timesteps = begins_anew(diffusers.AmusedScheduler.set_timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        starting_mask_ratio: float = 1.0,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> AmusedSchedulerOutput | tuple:
        """diffusers' step. model_output: [B, L, V] with sample [B, L] int64, or [B, V, H, W] with [B, H, W]."""
        shape = sample.shape
        if sample.ndim == 3 and model_output.ndim == 4:
            model_output, sample = model_output.flatten(2).transpose(1, 2), sample.flatten(1)
        draws = self._draws(generator, model_output)
        stats = token_stats(model_output, temperature=1.0, **draws.of_rows(len(sample)))
        unknown = sample == self.config.mask_token_id
        clean = torch.where(unknown, stats.sample, sample)

        index = self._index(timestep)
        gumbel = -torch.log(-torch.log(draws.uniform(sample.shape).clamp(1e-20, 1 - 1e-16)))
        doubt = -(stats.log_prob.double() + at(self.temperatures, index) * gumbel)
        # At least one stays masked until the last step, and no more than before.
        count = (sample.shape[1] * (starting_mask_ratio * self._mask_ratio(index))).floor()
        count = torch.minimum(unknown.sum(-1, keepdim=True) - 1, count).clamp(min=1)
        masked = unknown & (ranks(doubt.masked_fill(~unknown, -torch.inf)) < count) & (timestep != 0)
        prev_sample = torch.where(masked, self.config.mask_token_id, clean)
        found: tuple = (prev_sample.view(shape), clean.view(shape))
        return AmusedSchedulerOutput(*found) if return_dict else found

    def add_noise(self, sample: Tensor, timesteps: int | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """diffusers' own, without waiting: each token is masked by the schedule's ratio at that time."""
        source = sample.device if generator is None else generator.device
        u = torch.rand(sample.shape, device=source, generator=generator).to(sample.device, non_blocking=True)
        return sample.masked_fill(u < self._mask_ratio(self._index(timesteps)), self.config.mask_token_id)

    def _index(self, timestep: int | Tensor) -> Tensor:
        """Of the timestep among the run's."""
        return (self.timesteps == timestep).to(torch.uint8).argmax()

    def _mask_ratio(self, index: Tensor) -> Tensor:
        """How much is still masked after that step, in diffusers' float32."""
        ratio = (index + 1) / len(self.timesteps)
        if self.config.masking_schedule == "cosine":
            return torch.cos(ratio * math.pi / 2)
        if self.config.masking_schedule == "linear":
            return 1 - ratio
        raise ValueError(f"masking_schedule: expected cosine or linear, got {self.config.masking_schedule!r}")

"""Entropy-bounded decoding of a uniform process (Ben-Hamu et al. 2025, arXiv:2505.24857)."""

from __future__ import annotations

import diffusers
import torch
from diffusers.schedulers.scheduling_entropy_bound import EntropyBoundSchedulerOutput
from torch import Tensor

from ..ops import token_stats
from .base import TokenScheduler, begins_anew


class EntropyBoundScheduler(TokenScheduler, diffusers.EntropyBoundScheduler):
    """Accepts the k tokens of least entropy with sum_i H_i - max_i H_i <= gamma, and renoises the rest.

    The logits are read once for this. `pred_logits` costs another reading and a writing.
    """

    set_timesteps = begins_anew(diffusers.EntropyBoundScheduler.set_timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        entropy_bound: float | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> EntropyBoundSchedulerOutput | tuple:
        """diffusers' step. model_output: [B, L, V] logits. timestep: the number of the step. sample: [B, L] int64."""
        bound = self.config.entropy_bound if entropy_bound is None else entropy_bound
        draws = self._draws(generator, model_output)
        temperature = self._temperature(timestep)
        each = temperature.double().expand(len(sample)) if isinstance(temperature, Tensor) else temperature
        stats = token_stats(model_output, temperature=each, **draws.of_rows(len(sample)))

        entropy, order = stats.drawn_entropy.double().sort(dim=-1, stable=True)
        bounded = entropy.cumsum(-1) - entropy <= bound  # the last is the largest
        accepted = torch.zeros_like(bounded).scatter_(-1, order, bounded)
        noise = draws.tokens(model_output.shape[-1], sample.shape)
        prev_sample = torch.where(accepted, stats.sample, noise)
        found: tuple = (prev_sample, accepted, stats.sample, stats.drawn_log_prob.exp(), model_output / temperature)
        return EntropyBoundSchedulerOutput(*found) if return_dict else found

    def _temperature(self, timestep: int | Tensor) -> float | Tensor:
        """From t_max at the first step in a line towards t_min."""
        steps, least, most = self.num_inference_steps, self.config.t_min, self.config.t_max
        return least + (most - least) * ((steps - timestep) / steps)

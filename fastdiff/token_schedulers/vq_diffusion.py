"""VQ-Diffusion: tokens that are replaced at random or masked."""

from __future__ import annotations

import diffusers
import torch
from diffusers.schedulers.scheduling_vq_diffusion import VQDiffusionSchedulerOutput
from torch import Tensor

from ..ops import token_stats
from .base import TokenScheduler, at, begins_anew


class VQDiffusionScheduler(TokenScheduler, diffusers.VQDiffusionScheduler):
    """Gu et al. 2021, arXiv:2111.14822. The step draws x0, and then one of three routes of q(x_{t-1} | x_t, x0).

    That has the law of diffusers' step, which makes the posterior of all classes, sum_{x0} p(x0) q(x_{t-1} | x_t, x0).
    """

    log_at: Tensor
    log_bt: Tensor
    log_ct: Tensor
    log_cumprod_at: Tensor
    log_cumprod_bt: Tensor
    log_cumprod_ct: Tensor
    mask_class: int
    num_embed: int
    set_timesteps = begins_anew(diffusers.VQDiffusionScheduler.set_timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> VQDiffusionSchedulerOutput | tuple:
        """diffusers' step. model_output: [B, V - 1, L], ln p(x0). sample: [B, L] int64, x_t, V - 1 is the mask.

        With Q_t(x_t | j) = a_t [j = x_t] + b_t, c_t for a masked x_t, and cumulated A, B, C of t - 1, the posterior is
        in proportion (A [j = x0] + B) Q_t(x_t | j) for a class j, and C [x_t masked] for the mask.
        """
        draws = self._draws(generator, model_output)
        stats = token_stats(model_output.transpose(1, 2), temperature=1.0, **draws.of_rows(len(sample)))
        a, b, c = (at(table, timestep).double().exp() for table in (self.log_at, self.log_bt, self.log_ct))
        cumulated = (self.log_cumprod_at, self.log_cumprod_bt, self.log_cumprod_ct)
        # Before the first time comes the tables' last entry: nothing replaced, nothing masked.
        clean_a, clean_b, clean_c = (at(table, timestep - 1).double().exp() for table in cumulated)

        masked, classes = sample == self.mask_class, self.num_embed - 1
        to_any = torch.where(masked, c, b)  # Q_t to a token other than x_t itself
        clean = clean_a * (to_any + a * (stats.sample == sample))
        stay = torch.where(masked, clean_c, clean_b * a)
        route = draws.route(torch.stack([clean, stay, classes * clean_b * to_any], dim=-1))
        prev_sample = torch.where(route == 0, stats.sample, sample)
        prev_sample = torch.where(route == 2, draws.tokens(classes, sample.shape), prev_sample)
        found: tuple = (prev_sample,)
        return VQDiffusionSchedulerOutput(*found) if return_dict else found

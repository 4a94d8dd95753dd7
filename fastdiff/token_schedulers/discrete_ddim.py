"""The exact posterior of a uniform process, and its Gibbs corrector by the leave-one-out denoiser."""

from __future__ import annotations

import diffusers
import torch
from diffusers.schedulers.scheduling_discrete_ddim import DiscreteDDIMSchedulerOutput
from torch import Tensor

from ..ops import token_stats
from .base import TokenScheduler, begins_anew
from .leave_one_out import Conditional, leave_one_out


class DiscreteDDIMScheduler(TokenScheduler, diffusers.DiscreteDDIMScheduler):
    """D3PM's uniform process with alpha = 1 - t (Austin et al. 2021, arXiv:2107.03006).

    `step` and `step_correct` (arXiv:2605.22765) read the logits once each.
    """

    set_timesteps = begins_anew(diffusers.DiscreteDDIMScheduler.set_timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> DiscreteDDIMSchedulerOutput | tuple:
        """diffusers' step, from q(x_s | x_t, x0) with x0 drawn from the logits [B, L, V]. sample: [B, L] int64, x_t.

        With a = alpha_t / alpha_s and b = alpha_s, in proportion: x0 by b (1 - a) / V + a b [x0 = x_t], x_t by
        a (1 - b) / V, and a uniform token by (1 - a) (1 - b) / V.
        """
        draws = self._draws(generator, model_output)
        rows = {} if temperature == 0 else draws.of_rows(len(sample))
        stats = token_stats(model_output, temperature=temperature, **rows)
        vocabulary, steps = model_output.shape[-1], self.num_inference_steps
        a, b = (timestep / steps) / ((timestep + 1) / steps), (timestep + 1) / steps

        same = (sample == stats.sample).float()
        clean = b * (1 - a) / vocabulary + a * b * same
        stay = a * (1 - b) / vocabulary * torch.ones_like(same)
        noise = (1 - a) * (1 - b) / vocabulary * torch.ones_like(same)
        weights = torch.stack([clean, stay, noise], dim=-1)
        route = draws.route(weights / weights.sum(-1, keepdim=True))
        prev_sample = torch.where(route == 0, stats.sample, sample)
        prev_sample = torch.where(route == 2, draws.tokens(vocabulary, sample.shape), prev_sample)
        found: tuple = (prev_sample, stats.sample, stats.log_prob.exp(), model_output)
        return DiscreteDDIMSchedulerOutput(*found) if return_dict else found

    def step_correct(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> DiscreteDDIMSchedulerOutput | tuple:
        """diffusers' corrector: `corrector_k` positions anew from p_s(x^l | the others), which leaves p_s as it is.

        model_output: [B, L, V] logits at `sample`, [B, L] int64. timestep: the step just taken, which is not the last.
        """
        draws = self._draws(generator, model_output)
        alpha = (timestep + 1) / self.num_inference_steps
        if not isinstance(alpha, Tensor):
            if not 0 < alpha < 1:
                raise ValueError(f"timestep: expected one in [0, {self.num_inference_steps - 2}], got {timestep}")
            alpha = torch.full((), alpha, dtype=torch.float64, device=sample.device)
        scores = draws.uniform(sample.shape)  # before the seeds, as diffusers draws them
        conditional = leave_one_out(model_output, sample, alpha.double(), draws)
        positions = self._positions(conditional, scores)
        resampled = conditional.sample.gather(-1, positions)
        probability = conditional.log_prob.gather(-1, positions).exp()
        prev_sample = sample.scatter(-1, positions, resampled)
        found: tuple = (prev_sample, resampled, probability, model_output)
        return DiscreteDDIMSchedulerOutput(*found) if return_dict else found

    def _positions(self, p: Conditional, u: Tensor) -> Tensor:
        """[B, k] int64: the least sure, by Gumbel's trick without replacement."""
        doubts = {
            "random": lambda: u,
            "lowest_maxprob": lambda: -torch.maximum(p.current, p.other),
            "lowest_current_prob": lambda: -p.current,
            "lowest_log_margin": lambda: p.other - p.current,
        }
        selection = self.config.corrector_selection
        if selection not in doubts:
            raise ValueError(f"corrector_selection: expected one of {', '.join(doubts)}, got {selection!r}")
        keys = doubts[selection]()
        if selection != "random":
            keys = keys / self.config.corrector_selection_tau - torch.log(-torch.log(u.clamp(min=1e-12)))
        return keys.topk(min(max(1, int(self.config.corrector_k)), u.shape[-1]), dim=-1).indices

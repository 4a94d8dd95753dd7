"""Confidence decoding of a block: commits what is surer than a threshold, and at least a fixed number a step."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementSchedulerOutput
from torch import Tensor

from ..ops import token_stats
from .base import TokenScheduler, at, begins_anew, ranks
from .eos import eos_finished


class BlockRefinementScheduler(TokenScheduler, diffusers.BlockRefinementScheduler):
    """LLaDA2's and DiffusionGemma's sampler, with or without a mask token; editing is LLaDA2.1's (arXiv:2602.08676).

    `step` reads the logits once and no tensor's value; `check_block_should_continue` reads one.
    """

    _transfer_schedule: Any
    _committed: Any
    set_timesteps = begins_anew(diffusers.BlockRefinementScheduler.set_timesteps)
    check_eos_finished = staticmethod(eos_finished)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> BlockRefinementSchedulerOutput | tuple:
        """diffusers' step. model_output: [B, L, V] logits. timestep: the step in the block. sample: [B, L] int64."""
        threshold = self.config.threshold if threshold is None else threshold
        editing = self.config.editing_threshold if editing_threshold is None else editing_threshold
        draws = self._draws(generator, model_output)
        greedy = temperature == 0 or sampling_method not in ("auto", "multinomial")
        options = {} if greedy else self._drawn(temperature, top_k, top_p) | draws.of_rows(len(sample))
        stats = token_stats(model_output, **options)
        tokens, probs = stats.sample, stats.max_prob if greedy else stats.drawn_log_prob.exp()
        confidence = probs.nan_to_num(0.0)  # what has no law comes last

        if mask_token_id is None:
            waiting = ~self._committed_before(timestep, sample)
            moved = self._surest(confidence, waiting, self._owed(timestep, waiting), threshold)
            protected = waiting
        else:
            waiting = sample == mask_token_id
            moved = torch.zeros_like(waiting)
            if self._transfer_schedule is not None:
                quota = at(self._transfer_schedule, self._within_schedule(timestep))
                moved = self._surest(confidence, waiting, quota, threshold)
            protected = waiting if prompt_mask is None else waiting | prompt_mask
        edited = torch.zeros_like(moved)
        if editing is not None and editing > 0:
            edited = ~protected & (tokens != sample) & (confidence > editing)

        prev_sample = torch.where(moved | edited, tokens, sample)
        if mask_token_id is None:
            self._committed = moved | ~waiting
            noise = draws.tokens(model_output.shape[-1], sample.shape)
            prev_sample = torch.where(self._committed, prev_sample, noise)
        found: tuple = (prev_sample, moved, edited, tokens, probs, model_output)
        return BlockRefinementSchedulerOutput(*found) if return_dict else found

    @staticmethod
    def _drawn(temperature: float, top_k: int | None, top_p: float | None) -> dict[str, Any]:
        """Options of the draw. diffusers takes 0 and less for no top_k, and 1 and more for no top_p."""
        top_k = None if top_k is None or top_k <= 0 else top_k
        return {"temperature": temperature, "top_k": top_k, "top_p": None if top_p is None or top_p >= 1 else top_p}

    @staticmethod
    def _surest(confidence: Tensor, waiting: Tensor, count: int | Tensor, threshold: float) -> Tensor:
        """The `count` surest of those that wait, [B, 1] or one for all, and all that are above the threshold."""
        rank = ranks(confidence.masked_fill(~waiting, -torch.inf))
        return waiting & ((rank < count) | (confidence > threshold))

    def _within_schedule(self, timestep: int | Tensor) -> int | Tensor:
        last = len(self._transfer_schedule) - 1
        return timestep.clamp(max=last) if isinstance(timestep, Tensor) else min(int(timestep), last)

    def _committed_before(self, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """[B, L]: what earlier steps of this block have committed, where no mask token says it."""
        known = self._committed
        if known is None or known.shape != sample.shape:
            return torch.zeros_like(sample, dtype=torch.bool)
        return known & (timestep != 0)

    def _owed(self, timestep: int | Tensor, waiting: Tensor) -> Tensor:
        """[B, 1]: how many must be committed for an even pace, ceil(L (step + 1) / steps) in all."""
        length, steps = waiting.shape[-1], self.num_inference_steps
        target = ((timestep + 1) * length + steps - 1) // steps
        return target - (length - waiting.sum(-1, keepdim=True))

    def check_block_should_continue(
        self,
        step_idx: int,
        masks_remaining: bool | Tensor,
        editing_enabled: bool,
        editing_transfer_index: Tensor,
        post_steps: int,
        max_post_steps: int,
        finished: Tensor,
    ) -> bool:
        """diffusers' own, with one reading of the device for all three conditions."""
        if not isinstance(masks_remaining, Tensor):
            masks_remaining = torch.full((), masks_remaining, dtype=torch.bool, device=finished.device)
        conditions = torch.stack([finished.all(), masks_remaining, editing_transfer_index.any()])
        finished_all, remaining, edited = conditions.tolist()
        if finished_all:
            return False
        if remaining:
            return step_idx < self.num_inference_steps
        return editing_enabled and edited and post_steps <= max_post_steps

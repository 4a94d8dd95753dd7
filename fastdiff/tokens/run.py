"""A run: for each block the steps of the plan, each by its rule."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import TokenStats
from ..ops.philox import uniform_rows
from .calls import TokenCalls
from .rules.base import Count, Moment
from .stopping import Stop, Watch
from .token_plan import Plan
from .windows import Window, windows_of

START = 2**32 - 1  # the random number of the first tokens, of no step


@dataclass(frozen=True)
class Step:
    """One step of a run, as `iter_sample` yields it.

    i: of its block, from 0. block: (start, stop) of its positions in the sequence. tokens: [B, ...] after the step;
    later steps do not write into it. changed: [B, ...] bool, where the step changed them. left: [B] masks that the
    block still has. finished: whether the block is now final in all samples: what a model keeps of it, such as keys and
    values, can be made once and for all. evaluations: of the network for each sample, in the run so far. stats: what
    the model said of the window's positions (see `ops.token_stats`), [B, K], None where the rule reads whole laws;
    window: where K begins and ends.
    """

    i: int
    block: tuple[int, int]
    tokens: Tensor
    changed: Tensor
    left: Tensor
    finished: bool
    evaluations: int
    window: tuple[int, int]
    stats: TokenStats | None


class Run:
    """The state of one run: tokens [B, N], where they are open, and whether a row without a law was seen."""

    def __init__(
        self, plan: Plan, calls: TokenCalls, open: Tensor, mask_id: int, seeds: Tensor, stop: Stop | None,
        block_start: int, see_ahead: bool, shape: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.plan, self.calls, self.open, self.mask_id = plan, calls, open, mask_id
        self._seeds, self._stop, self._see_ahead, self._shape = seeds, stop, see_ahead, shape
        self.windows = windows_of(open, plan.block, block_start)
        self.lawless = torch.zeros((), dtype=torch.bool, device=open.device)
        self.tokens = calls.tokens
        if self.windows:
            first = self._uniforms((0, open.shape[1]), START)
            self.tokens = plan.rule.start(self.tokens, open, calls, first, mask_id)

    def steps(self) -> Iterator[Step]:
        """Every step, one block after the other. Raises ValueError at the end where the model's logits had no law."""
        for place, window in enumerate(self.windows):
            if place and self._stop and not bool(self.open[:, window.start :].any()):
                break
            yield from self._block_steps(window)
        if self.windows and bool(self.lawless):
            raise ValueError("model: its logits have a row with NaN or infinity, or with no token allowed")

    def _block_steps(self, window: Window) -> Iterator[Step]:
        """The steps of one block."""
        rule, (a, b) = self.plan.rule, (window.start, window.stop)
        calls, open = self.calls, self.open[:, a:b]
        calls.block, calls.window = window.block, (a, b)
        calls.seen = self.tokens.shape[1] if self._see_ahead else window.block[1]
        count = self._masked()[:, a:b].sum(-1)
        done = count == 0 if rule.adaptive else torch.zeros_like(count, dtype=torch.bool)
        steps = self.plan.steps or rule.most_steps(max(window.counts))
        active = [i for i in range(steps) if not self._idle(i, window)]
        watch = Watch() if rule.adaptive or (rule.keeps and self._stop) else None
        memory: dict[str, Tensor] = {}
        for i in active:
            before, calls.tokens = self.tokens, self.tokens
            moment = self._moment(i, steps, window, count, memory)
            inside = torch.where(open & ~done[:, None], rule.advance(moment), moment.tokens)
            self._look(moment)
            if rule.adaptive:
                done = done | rule.done(moment, inside)
                if self.plan.steps is None:  # by each sample's own masks, whatever others have
                    done = done | (rule.most_steps(count) <= i + 1)
            self.tokens = torch.cat([self.tokens[:, :a], inside, self.tokens[:, b:]], 1)
            if self._stop and rule.keeps:
                self.tokens = self._stop.filled(self.tokens, self.open)
            masked = self._masked()[:, a:b]
            over = done if rule.adaptive and not rule.keeps else ~masked.any(-1)
            finished = i == active[-1] or bool(watch and watch(over.all()))
            if self._stop and finished:
                self._close(self._stop)
            yield Step(
                i, window.block, self._shaped(self.tokens), self._shaped(self.tokens != before), masked.sum(-1),
                finished, calls.evaluations, (a, b), moment.latest,
            )  # fmt: skip
            if finished:
                return

    def _moment(self, i: int, steps: int, window: Window, count: Tensor, memory: dict[str, Tensor]) -> Moment:
        a, b = window.start, window.stop
        rule, tokens, open = self.plan.rule, self.tokens[:, a:b], self.open[:, a:b]
        masked = open & (tokens == self.mask_id)
        grid = self._grid(i)
        total = open.sum(-1).clamp(min=1)
        if rule.timed:
            alpha = torch.full(count.shape, grid[0], dtype=torch.float64, device=tokens.device)
        else:
            alpha = 1 - masked.sum(-1).double() / total
        uniforms = functools.partial(self._uniforms, (a, b))
        return Moment(
            i, steps, tokens, open, masked, self._quota(i, count, masked), alpha, grid, self.mask_id, self.calls,
            uniforms, memory,
        )  # fmt: skip

    def _quota(self, i: int, count: Tensor, masked: Tensor) -> Tensor:
        """[B] how many tokens the plan commits now at least."""
        left = masked.sum(-1)
        quota = torch.zeros_like(left)
        if self.plan.reached is not None:
            quota = (share_of(count, self.plan.reached, i + 1) - (count - left)).clamp(min=0)
        return quota.clamp(min=1) if self.plan.rule.adaptive else quota

    def _idle(self, i: int, window: Window) -> bool:
        """Whether step i would commit nothing in any sample: more steps than tokens make no more calls."""
        reached = self.plan.reached
        if reached is None or self.plan.rule.adaptive or self.plan.rule.timed:
            return False
        return all(share_of(n, reached, i) == share_of(n, reached, i + 1) for n in window.counts)

    def _grid(self, i: int) -> tuple[float, float]:
        """The shares before and after step i."""
        reached = self.plan.reached
        return (0.0, 1.0) if reached is None else (reached[i] / reached[-1], reached[i + 1] / reached[-1])

    def _close(self, stop: Stop) -> None:
        """Fill what comes after a stop token, and leave it so."""
        after = stop.after(self.tokens, self.open)
        self.tokens, self.open = self.tokens.masked_fill(after, stop.fill), self.open & ~after

    def _look(self, m: Moment) -> None:
        """Remember whether a row that matters had no law."""
        if self.calls.lawless is not None:
            rows = m.masked if self.plan.rule.keeps else m.open
            self.lawless = self.lawless | (rows & self.calls.lawless).any()
            self.calls.lawless = None

    def _masked(self) -> Tensor:
        return self.open & (self.tokens == self.mask_id)

    def _shaped(self, tokens: Tensor) -> Tensor:
        return tokens.view(-1, *self._shape[1:])

    def _uniforms(self, span: tuple[int, int], index: int) -> Tensor:
        """A number in (0, 1) for each position of the span, [B, K] float64."""
        positions = torch.arange(*span, device=self._seeds.device).expand(len(self._seeds), -1)
        return uniform_rows(self._seeds, torch.full_like(self._seeds, index), positions)


def share_of(count: Count, reached: tuple[int, ...], i: int) -> Count:
    """Of so many masks those that stand before step i, rounded."""
    return (2 * count * reached[i] + reached[-1]) // (2 * reached[-1])

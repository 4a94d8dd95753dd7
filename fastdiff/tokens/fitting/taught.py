"""Runs that are taught a text: the rule chooses where, the text's tokens go there, and their probability is noted.

A rule that chooses by the model's law alone makes a sampler whose own law is known: -ln q(text) is the sum over steps
of -ln p(token | what stood there before the step). Random order makes one for each order. So the mean over texts is the
divergence of their law from the sampler's, up to the entropy of the texts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import TokenStats, token_stats
from ..calls import TokenCalls
from ..rules.base import Count, Moment, Rule
from ..rules.ranked import RandomOrder


class Taken(NamedTuple):
    """A step: i, of its block; [B] float64 the mean of -ln p over masked tokens and the sum over those committed;
    busy: [B] whether anything was masked."""

    i: int
    mean: Tensor
    nll: Tensor
    busy: Tensor


class Taught(Rule):
    """Commits the text's tokens where `rule` would commit those that it draws.

    Of random order each seed has one, whatever the sizes: plans are compared on the same orders.
    text: [B, N] int64. seeds: [B], of the draws by which the rule chooses. taken: what every step did so far.
    """

    def __init__(self, rule: Rule, text: Tensor, seeds: Tensor) -> None:
        self._rule, self._text, self._seeds = rule, text, seeds
        self.taken: list[Taken] = []

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        return self._rule.adaptive

    def most_steps(self, masks: Count) -> Count:
        return self._rule.most_steps(masks)

    def advance(self, m: Moment) -> Tensor:
        reader = _Reader(m.model, self._text, self._seeds)  # type: ignore[arg-type]
        # The order would else be that of the first step with a size: plans are compared on the same orders.
        inner = replace(m, model=reader, uniforms=lambda index: m.uniforms(0))
        chosen = self._rule.advance(inner) != m.tokens
        m.latest = inner.latest
        count = m.masked.sum(-1)
        mean = reader.nll.masked_fill(~m.masked, 0).sum(-1) / count.clamp(min=1)
        # Any of the masked tokens is as likely to be chosen at random: the mean over the choice has less spread.
        random = isinstance(self._rule, RandomOrder)
        nll = chosen.sum(-1) * mean if random else reader.nll.masked_fill(~chosen, 0).sum(-1)
        self.taken.append(Taken(m.i, mean, nll, count > 0))
        return m.commit(chosen, reader.text)


class _Reader:
    """The model as a rule sees it, which also notes how probable the text is. nll: [B, K] float64."""

    def __init__(self, calls: TokenCalls, text: Tensor, seeds: Tensor) -> None:
        self._calls, self._seeds = calls, seeds
        self._span = calls.window
        self.text = text[:, slice(*self._span)]

    @property
    def vocabulary(self) -> int:
        return self._calls.vocabulary

    def log_law(self, tokens: Tensor, alpha: Tensor) -> Tensor:
        law = self._calls.log_law(tokens, alpha)
        if int(self.text.max()) >= law.shape[-1]:
            raise ValueError(f"texts: expected tokens below the model's {law.shape[-1]}, got {int(self.text.max())}")
        self.nll = -law.gather(-1, self.text[..., None])[..., 0]
        return law

    def draw(self, log_weights: Tensor, index: int) -> Tensor:
        return self._calls.draw(log_weights, index)

    def stats(
        self, tokens: Tensor, index: int, alpha: Tensor, current_shift: Tensor | float | None = None
    ) -> TokenStats:
        law = self.log_law(tokens, alpha)
        positions = torch.arange(*self._span, device=tokens.device).expand_as(tokens)
        return token_stats(law, seeds=self._seeds, index=index, positions=positions, temperature=1.0)

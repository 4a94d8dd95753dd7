"""The uniform process: noise is another token, and every token may change at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import CHOICE, Evaluate, Moment, Rule, most, require

MOST_CORRECTIONS = 12
CORRECTOR = 8  # its first stream; four a correction


@dataclass(frozen=True)
class Uniform(Rule):
    """The reverse of a process that keeps a token with probability alpha and else draws any (arXiv:2107.03006).

    With x0 drawn from the model's p(x0 | x_t), K tokens, a = alpha_t / alpha_s and b = alpha_s, the posterior
    q(x_s | x_t, x0) is one of three routes, with weights that are normalised:

        to x0: b (1 - a) / K + a b [x_t = x0],   stay: a (1 - b) / K,   any token: (1 - a) (1 - b) / K.

    The run begins with any token in place of each mask; the last step goes to x0. The mask is no token of it.
    corrections: Gibbs steps after each step but the last, one call each: `positions` random positions are drawn again
    from alpha_s p(x0 | the others) + (1 - alpha_s) / K, where the model's law of a token is freed of what the token
    itself says by ln(1 + K alpha / (1 - alpha)) off its logit (arXiv:2605.22765, eq. 13). With one position the law of
    x_s does not change; with several they are drawn as if independent.
    """

    corrections: int = 0
    positions: int = 1
    name: ClassVar[str] = "uniform"
    keeps: ClassVar[bool] = False
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least, largest in (("corrections", 0, MOST_CORRECTIONS), ("positions", 1, 2**31)):
            value = getattr(self, name)
            right = isinstance(value, int) and least <= value <= largest
            require(name, value, right, f"a whole number from {least} to {largest}")

    def start(self, tokens: Tensor, open: Tensor, model: Evaluate, uniform: Tensor, mask_id: int) -> Tensor:
        return torch.where(open, any_token(uniform, model.vocabulary, mask_id), tokens)

    def advance(self, m: Moment) -> Tensor:
        now, then = m.grid
        size = token_count(m.model.vocabulary, m.mask_id)
        x0, kept = m.evaluate().sample, now / then if then else 1.0
        weights = routes(kept, then, size, m.tokens == x0)
        u, noise = m.uniform(), any_token(m.uniform(1), m.model.vocabulary, m.mask_id)
        tokens = torch.where(u < weights[0], x0, torch.where(u < weights[0] + weights[1], m.tokens, noise))
        tokens = torch.where(m.open, tokens, m.tokens)
        if then < 1:
            for k in range(self.corrections):
                tokens = self._corrected(m, tokens, then, CORRECTOR + 4 * k)
        return tokens

    def _corrected(self, m: Moment, tokens: Tensor, alpha: float, stream: int) -> Tensor:
        size = token_count(m.model.vocabulary, m.mask_id)
        shift = -math.log1p(size * alpha / (1 - alpha))
        level = torch.full_like(m.alpha, alpha)
        stats = m.evaluate(tokens, stream=stream, alpha=level, current_shift=shift)
        where, kind, other = (m.uniform(stream - CHOICE + k) for k in (1, 2, 3))
        chosen = most(where, torch.full_like(m.quota, self.positions), m.open)
        noise = any_token(other, m.model.vocabulary, m.mask_id)
        return torch.where(chosen, torch.where(kind < alpha, stats.sample, noise), tokens)


def routes(a: float, b: float, size: int, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chances of going to x0, staying and going anywhere, each like `same`: where the token is x0 already."""
    to_x0 = b * (1 - a) / size + a * b * same.double()
    stay, anywhere = a * (1 - b) / size, (1 - a) * (1 - b) / size
    total = to_x0 + stay + anywhere
    return to_x0 / total, stay / total, anywhere / total


def token_count(vocabulary: int, mask_id: int) -> int:
    """K: the mask is no token."""
    return vocabulary - (mask_id < vocabulary)


def any_token(uniform: Tensor, vocabulary: int, mask_id: int) -> Tensor:
    """Each token but the mask equally often."""
    size = token_count(vocabulary, mask_id)
    token = (uniform * size).long().clamp(max=size - 1)
    return token + (token >= mask_id).long()

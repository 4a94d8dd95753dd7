"""Exact models of tokens: Markov chains and hidden Markov models, whose conditionals are sums that can be computed.

A token sequence x_1 .. x_L has hidden states s_i, p(s_1) = initial, p(s_{i+1} | s_i) = transition[s_i] and
p(x_i | s_i) = emission[s_i]; a Markov chain's states are its tokens. The mask is the number V, which has no logit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

F64 = torch.float64


class Chain(NamedTuple):
    """S hidden states, V tokens, float64: initial [S], transition [S, S], emission [S, V]."""

    initial: Tensor
    transition: Tensor
    emission: Tensor

    @property
    def vocabulary(self) -> int:
        return self.emission.shape[1]

    @property
    def mask(self) -> int:
        return self.vocabulary

    def __call__(self, tokens: Tensor) -> Tensor:
        """ln p(x_i | the tokens elsewhere that are no mask), [B, L, V]: the exact model of a masked process."""
        known = torch.cat([self.emission, torch.ones_like(self.emission[:, :1])], 1)
        return self._left_out(known.T[tokens])

    def left_out(self, tokens: Tensor, alpha: float) -> Tensor:
        """ln p(x_i | the noisy tokens elsewhere), [B, L, V], each kept with probability alpha and else uniform."""
        noisy = alpha * self.emission + (1 - alpha) / self.vocabulary
        return self._left_out(noisy.T[tokens])

    def denoiser(self, tokens: Tensor, alpha: float) -> Tensor:
        """ln p(x_i | all the noisy tokens), [B, L, V]: the exact model of a uniform process."""
        kept = torch.nn.functional.one_hot(tokens, self.vocabulary) * alpha + (1 - alpha) / self.vocabulary
        return (self.left_out(tokens, alpha) + kept.log()).log_softmax(-1)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """ln p(x), [B], of sequences without masks; of the tokens that are known where there are masks."""
        state, total = self.initial.expand(len(tokens), -1), torch.zeros(len(tokens), dtype=F64)
        known = torch.cat([self.emission, torch.ones_like(self.emission[:, :1])], 1)
        for x in tokens.unbind(1):
            state = state * known.T[x]
            norm = state.sum(-1, keepdim=True)
            total = total + norm[:, 0].log()
            state = state / norm @ self.transition
        return total

    def draw(self, count: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """[count, length] sequences."""
        states = torch.multinomial(self.initial, count, replacement=True, generator=generator)
        found = []
        for _ in range(length):
            found.append(torch.multinomial(self.emission[states], 1, generator=generator)[:, 0])
            states = torch.multinomial(self.transition[states], 1, generator=generator)[:, 0]
        return torch.stack(found, 1)

    def _left_out(self, evidence: Tensor) -> Tensor:
        """From p(what is seen at i | s_i), [B, L, S]: the forward and backward messages without i's own."""
        length = evidence.shape[1]
        ahead, behind = [self.initial.expand_as(evidence[:, 0])], [torch.ones_like(evidence[:, 0])]
        for i in range(length - 1):
            ahead.append(_normalised((ahead[-1] * evidence[:, i]) @ self.transition))
            behind.append(_normalised((behind[-1] * evidence[:, length - 1 - i]) @ self.transition.T))
        states = torch.stack(ahead, 1) * torch.stack(behind[::-1], 1)
        return _normalised(states @ self.emission).log()


def sticky(vocabulary: int, epsilon: float) -> Chain:
    """A Markov chain that leaves its token with probability epsilon, for any other, and begins anywhere."""
    leave = torch.full((vocabulary, vocabulary), epsilon / (vocabulary - 1), dtype=F64)
    transition = leave.fill_diagonal_(1 - epsilon)
    return Chain(torch.full((vocabulary,), 1 / vocabulary, dtype=F64), transition, torch.eye(vocabulary, dtype=F64))


def markov(vocabulary: int, generator: torch.Generator | None = None) -> Chain:
    """A Markov chain with random probabilities."""
    rows = _random_rows(vocabulary + 1, vocabulary, generator)
    return Chain(rows[0], rows[1:], torch.eye(vocabulary, dtype=F64))


def hidden_markov(states: int, vocabulary: int, generator: torch.Generator | None = None) -> Chain:
    """A hidden Markov model with random probabilities."""
    hidden, emission = (_random_rows(states + 1, size, generator) for size in (states, vocabulary))
    return Chain(hidden[0], hidden[1:], emission[1:])


def sequences(vocabulary: int, length: int) -> Tensor:
    """[V^L, L] all there are, in the order of `number_of`."""
    return torch.cartesian_prod(*[torch.arange(vocabulary)] * length).view(-1, length)


def number_of(tokens: Tensor, vocabulary: int) -> Tensor:
    """[B] the place of each sequence [B, L] among `sequences`."""
    powers = vocabulary ** torch.arange(tokens.shape[1] - 1, -1, -1)
    return (tokens * powers).sum(1)


def _random_rows(count: int, size: int, generator: torch.Generator | None) -> Tensor:
    return _normalised(torch.rand(count, size, dtype=F64, generator=generator) ** 3 + 0.02)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)

"""The random numbers of a token sampler's step: from a torch.Generator, or from a seed for each sample.

Both give what `ops.token_stats` takes, uniform numbers, uniform tokens, and one of a few routes. From a generator they
are those of the torch calls that other packages make, so that their seeds keep their tokens where that is possible.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops.philox import uniform_rows

STREAMS = 4  # draws that a step may make, each with an index of its own
LEAST, MOST = -(2**63), 2**63 - 1


class Draws(Protocol):
    """One step's."""

    def of_rows(self, batch: int) -> dict[str, Any]:
        """seeds and index for `ops.token_stats`."""

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Float64 numbers in [0, 1)."""

    def tokens(self, vocabulary: int, shape: tuple[int, ...]) -> Tensor:
        """Int64 tokens in [0, vocabulary), each as likely as any other."""

    def route(self, weights: Tensor) -> Tensor:
        """Which of the last axis, [...] int64, with probabilities in proportion to the weights [..., n]."""


class GeneratorDraws:
    """torch's calls with a generator, which may be on another device; None is torch's default one."""

    def __init__(self, generator: torch.Generator | None, device: torch.device) -> None:
        self.generator, self.device = generator, device
        self.source = device if generator is None else generator.device

    def of_rows(self, batch: int) -> dict[str, Any]:
        seeds = torch.randint(LEAST, MOST, (batch,), device=self.source, generator=self.generator)
        return {"seeds": self._here(seeds), "index": 0}

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return self._here(torch.rand(shape, device=self.source, generator=self.generator)).double()

    def tokens(self, vocabulary: int, shape: tuple[int, ...]) -> Tensor:
        return self._here(torch.randint(0, vocabulary, shape, device=self.source, generator=self.generator))

    def route(self, weights: Tensor) -> Tensor:
        """As torch.multinomial, which would look at the weights on the host first."""
        race = torch.empty_like(weights, device=self.source).exponential_(generator=self.generator)
        return (weights / self._here(race)).argmax(-1)

    def _here(self, drawn: Tensor) -> Tensor:
        return drawn.to(self.device, non_blocking=True)


class SeededDraws:
    """Counter-based: a sample's numbers are those of its seed, the step, and the place of the token."""

    def __init__(self, seeds: Tensor, step: int) -> None:
        self.seeds, self.next = seeds, STREAMS * step

    def of_rows(self, batch: int) -> dict[str, Any]:
        return {"seeds": self.seeds, "index": self._index()}

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        places = torch.arange(math.prod(shape[1:]), device=self.seeds.device).view(1, *shape[1:]).expand(shape)
        return uniform_rows(self.seeds, torch.full_like(self.seeds, self._index()), places)

    def tokens(self, vocabulary: int, shape: tuple[int, ...]) -> Tensor:
        return (self.uniform(shape) * vocabulary).long().clamp(max=vocabulary - 1)

    def route(self, weights: Tensor) -> Tensor:
        sums = weights.double().cumsum(-1)
        u = self.uniform(weights.shape[:-1])[..., None]
        return (sums <= u * sums[..., -1:]).sum(-1).clamp(max=weights.shape[-1] - 1)

    def _index(self) -> int:
        self.next += 1
        return self.next - 1

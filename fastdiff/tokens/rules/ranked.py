"""A number of tokens a step, by the plan's sizes: at random, or those of which the model is surest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Moment, Rule, is_number, most, require


@dataclass(frozen=True)
class RandomOrder(Rule):
    """The positions are chosen at random: a sampler of the model's law, whose error is what tokens of a step share.

    Its expected divergence from the law is a sum over the sizes (arXiv:2511.04647), which `fit` makes least.
    """

    name: ClassVar[str] = "random"

    def advance(self, m: Moment) -> Tensor:
        return m.commit(most(m.shuffle(), m.quota, m.masked), m.evaluate().sample)


@dataclass(frozen=True)
class _Surest(Rule):
    """Positions by a score of the model's, with Gumbel noise that falls to 0 over the steps (arXiv:2202.04200)."""

    noise: float = 0.0

    def __post_init__(self) -> None:
        require("noise", self.noise, is_number(self.noise) and self.noise >= 0, "a finite number >= 0")

    def advance(self, m: Moment) -> Tensor:
        stats = m.evaluate()
        score = SCORES[self.name](stats).double()
        if self.noise:
            left = 1 - (m.i + 1) / m.steps
            score = score - self.noise * left * (-m.uniform().log()).log()
        return m.commit(most(score, m.quota, m.masked), stats.sample)


@dataclass(frozen=True)
class Confidence(_Surest):
    """First the tokens drawn with the largest ln p: MaskGIT (arXiv:2202.04200), LLaDA's "low confidence" remasking.

    noise: times Gumbel noise, falling linearly to 0, is added to ln p. Not a sampler of the model's law.
    """

    name: ClassVar[str] = "confidence"


@dataclass(frozen=True)
class Margin(_Surest):
    """First where the largest and second largest probability differ most (arXiv:2502.06768). noise: as Confidence's."""

    name: ClassVar[str] = "margin"


@dataclass(frozen=True)
class Entropy(_Surest):
    """First where the model's law has the least entropy (Dream, arXiv:2508.15487). noise: as Confidence's."""

    name: ClassVar[str] = "entropy"


SCORES = {
    "confidence": lambda stats: stats.log_prob,
    "margin": lambda stats: stats.margin,
    "entropy": lambda stats: -stats.entropy,
}

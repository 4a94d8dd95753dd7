"""Tokens that are drawn again where the model has come to be sure of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Count, Moment, Rule, most
from .bounded import Values, at, require_values


@dataclass(frozen=True)
class Editing(Rule):
    """`Threshold`, and committed tokens are replaced by others whose probability is above `edit` (LLaDA2.1).

    tau, edit: in [0, 1], or a tuple of one for each step, the last of which goes on. Done when no mask is left and a
    step changes nothing; without sizes after two steps a token at most.
    """

    tau: Values = 0.7
    edit: Values = 0.9
    name: ClassVar[str] = "editing"
    adaptive: ClassVar[bool] = True
    keeps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("tau", "edit"):
            require_values(name, getattr(self, name), 0, 1, "a number in [0, 1], or a tuple of them")

    def advance(self, m: Moment) -> Tensor:
        stats = m.evaluate()
        prob = stats.log_prob.exp()
        sure = m.masked & (prob > at(self.tau, m.i))
        edited = m.open & ~m.masked & (prob > at(self.edit, m.i))
        return m.commit(edited | sure | most(prob, m.quota, m.masked), stats.sample)

    def done(self, m: Moment, tokens: Tensor) -> Tensor:
        return super().done(m, tokens) & (tokens == m.tokens).all(-1)

    def most_steps(self, masks: Count) -> Count:
        return 2 * masks

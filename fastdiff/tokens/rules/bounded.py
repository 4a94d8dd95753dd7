"""As many tokens a step as the model is sure of, at least one, and at least what the plan's sizes ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Moment, Rule, is_number, most, rank_of, require
from .ranked import SCORES

Values = float | tuple[float, ...]


def at(values: Values, i: int) -> float:
    """The value of step i; the last one goes on."""
    return values[min(i, len(values) - 1)] if isinstance(values, tuple) else values


def require_values(name: str, values: object, least: float, most: float, expected: str) -> None:
    """Raises ValueError naming the option unless it is a number or a tuple of numbers in [least, most]."""
    each = values if isinstance(values, tuple) else (values,)
    require(name, values, bool(each) and all(is_number(v) and least <= v <= most for v in each), expected)


@dataclass(frozen=True)
class Threshold(Rule):
    """All tokens drawn whose probability is above tau, the most probable first (Fast-dLLM, arXiv:2505.22618).

    tau: in [0, 1], or a tuple of one for each step, the last of which goes on.
    """

    tau: Values = 0.9
    name: ClassVar[str] = "threshold"
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_values("tau", self.tau, 0, 1, "a number in [0, 1], or a tuple of them")

    def advance(self, m: Moment) -> Tensor:
        stats = m.evaluate()
        sure = m.masked & (stats.log_prob.exp() > at(self.tau, m.i))
        return m.commit(sure | most(stats.log_prob, m.quota, m.masked), stats.sample)


@dataclass(frozen=True)
class Factor(Rule):
    """The n most probable tokens with (n + 1) (1 - p_n) < f, for the largest such n (arXiv:2505.22618).

    f: > 0, or a tuple of one for each step. At f <= 1 the tokens drawn at temperature 0 are those of their joint law's
    mode, if the p are right.
    """

    f: Values = 1.0
    name: ClassVar[str] = "factor"
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_values("f", self.f, 1e-300, 1e300, "a number > 0, or a tuple of them")

    def advance(self, m: Moment) -> Tensor:
        stats = m.evaluate()
        doubt = (1 - stats.log_prob.double().exp()).nan_to_num(nan=2.0).masked_fill(~m.masked, 2.0)
        ordered = doubt.sort(-1).values
        n = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device)
        count = torch.where((n + 1) * ordered < at(self.f, m.i), n, 0).amax(-1)
        return m.commit(most(-doubt, count.maximum(m.quota), m.masked), stats.sample)


@dataclass(frozen=True)
class EntropyBound(Rule):
    """The first k tokens with sum H - max H <= gamma, for the largest such k (EB sampler, arXiv:2505.24857).

    The bound is on what tokens drawn together can know of each other, in nats. gamma: >= 0, or a tuple of one for each
    step. by: the order, "entropy", "confidence" or "margin".
    """

    gamma: Values = 0.1
    by: str = "entropy"
    name: ClassVar[str] = "entropy_bound"
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_values("gamma", self.gamma, 0, 1e300, "a number >= 0, or a tuple of them")
        require("by", self.by, self.by in SCORES, f"one of {', '.join(SCORES)}")

    def advance(self, m: Moment) -> Tensor:
        stats = m.evaluate()
        entropy = stats.entropy.double().nan_to_num(nan=torch.inf).masked_fill(~m.masked, torch.inf)
        score = SCORES[self.by](stats).double().nan_to_num(nan=-1e300).masked_fill(~m.masked, -torch.inf)
        order = score.argsort(dim=-1, descending=True, stable=True)
        ordered = entropy.gather(-1, order)
        bounded = ordered.cumsum(-1) - ordered.cummax(-1).values <= at(self.gamma, m.i)  # NaN of inf - inf: no
        count = bounded.sum(-1).maximum(m.quota)
        return m.commit((rank_of(order) < count[:, None]) & m.masked, stats.sample)

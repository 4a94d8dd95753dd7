"""What a rule is, and what it sees of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from ...ops import TokenStats

STREAMS = 64  # random numbers of a position in a step: draws of tokens, and below those of a rule
CHOICE = 4  # the first stream of a rule


Count = TypeVar("Count", int, Tensor)


class Evaluate(Protocol):
    """The model's call, and what is read of its logits in the window."""

    def stats(
        self, tokens: Tensor, index: int, alpha: Tensor, current_shift: Tensor | float | None = None
    ) -> TokenStats: ...

    def log_law(self, tokens: Tensor, alpha: Tensor) -> Tensor: ...

    def draw(self, log_weights: Tensor, index: int) -> Tensor: ...

    @property
    def vocabulary(self) -> int: ...


@dataclass
class Moment:
    """A step of a window of K positions, as a rule sees it.

    i, steps: the step, and how many there are at most. tokens: [B, K] int64. open: [B, K], where tokens may change.
    masked: [B, K], open and not yet committed. quota: [B], how many to commit at least. alpha: [B] float64, the share
    of tokens that are no noise; grid: the plan's share before and after the step. memory: what the rule keeps between
    the steps of a window.
    """

    i: int
    steps: int
    tokens: Tensor
    open: Tensor
    masked: Tensor
    quota: Tensor
    alpha: Tensor
    grid: tuple[float, float]
    mask_id: int
    model: Evaluate
    uniforms: Callable[[int], Tensor]
    memory: dict[str, Tensor] = field(default_factory=dict)
    latest: TokenStats | None = None

    def evaluate(
        self,
        tokens: Tensor | None = None,
        *,
        stream: int = 0,
        alpha: Tensor | None = None,
        current_shift: Tensor | float | None = None,
    ) -> TokenStats:
        """Call the model on the window's tokens, or these, and draw with the step's random numbers of a stream."""
        self.latest = self.model.stats(
            self.tokens if tokens is None else tokens,
            self.i * STREAMS + stream,
            self.alpha if alpha is None else alpha,
            current_shift,
        )
        return self.latest

    def uniform(self, stream: int = 0) -> Tensor:
        """[B, K] float64 in (0, 1), of the step's stream for choices."""
        return self.uniforms(self.i * STREAMS + CHOICE + stream)

    def shuffle(self) -> Tensor:
        """[B, K] float64 in (0, 1), the same at every step of a window: a random order of its positions."""
        if "order" not in self.memory:
            self.memory["order"] = self.uniform()
        return self.memory["order"]

    def commit(self, chosen: Tensor, tokens: Tensor) -> Tensor:
        """The window's tokens with new ones where chosen."""
        return torch.where(chosen, tokens, self.tokens)


class Rule:
    """Which tokens a step changes, and to what. A value: its options are its fields.

    name: how plans and files call it. adaptive: a window ends when `done` rather than after the plan's steps. keeps:
    committed tokens never change. timed: it reads the plan's sizes as the shares of a process, not as counts.
    reads_rows: it draws by `ops.token_stats`, which can filter. sized: a plan may give it sizes.
    """

    name: ClassVar[str]
    adaptive: ClassVar[bool] = False
    keeps: ClassVar[bool] = True
    timed: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = True
    sized: ClassVar[bool] = True

    def start(self, tokens: Tensor, open: Tensor, model: Evaluate, uniform: Tensor, mask_id: int) -> Tensor:
        """The tokens [B, N] before the first step; `uniform` has a random number for each."""
        return tokens

    def advance(self, m: Moment) -> Tensor:
        """The window's tokens after the step, [B, K]."""
        raise NotImplementedError

    def done(self, m: Moment, tokens: Tensor) -> Tensor:
        """[B] whether the window of a sample is final after the step that made these tokens."""
        return ~(m.open & (tokens == m.mask_id)).any(-1)

    def most_steps(self, masks: Count) -> Count:
        """Steps after which a window with so many masks is done, where the plan has no sizes."""
        return masks


def most(score: Tensor, count: Tensor, allowed: Tensor) -> Tensor:
    """[B, K] the `count` [B] allowed positions of the largest scores; of equal ones the first, NaN last."""
    score = score.double().nan_to_num(nan=-1e300).masked_fill(~allowed, -math.inf)
    order = score.argsort(dim=-1, descending=True, stable=True)
    return (rank_of(order) < count[:, None]) & allowed


def rank_of(order: Tensor) -> Tensor:
    """[B, K] the place of each position in an order [B, K]."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)


def require(name: str, value: object, right: bool, expected: str) -> None:
    """Raises ValueError naming a rule's option."""
    if not right:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""What a full call leaves for cheap ones, and the two calls themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .reuse import Outputs, recording, reusing
from .split import Split

Result = TypeVar("Result")


@dataclass(frozen=True)
class Kept:
    """What a full call leaves for cheap ones. x: its `like`. t: its time. before: the full call before it."""

    x: tuple
    t: Any
    outputs: Outputs
    shapes: Outputs
    before: Kept | None = None

    def check(self, x: Tensor) -> None:
        """Raises ValueError where x is not like the full call's."""
        if like(x) != self.x:
            raise ValueError(f"state: kept from a full call of x {self.x}, got {like(x)}")

    def at(self, t: Any, order: int) -> Outputs:
        """The outputs at the time t: the latest, or on the line through the two latest."""
        if order == 0 or self.before is None:
            return self.outputs
        here, there = (torch.as_tensor(v, dtype=torch.float64) for v in (self.t, self.before.t))
        span = here - there
        # Two full calls at one time say nothing about the slope.
        share = torch.where(span == 0, 0.0, (torch.as_tensor(t, dtype=torch.float64) - here) / span.where(span != 0, 1))

        def line(new: Any, old: Any) -> Any:
            return torch.lerp(new, old, _across(-share, new)) if isinstance(new, Tensor) else new

        return pytree.tree_map(line, self.outputs, self.before.outputs)


@dataclass(frozen=True)
class Keeper:
    """Runs a network in full or in part. order: that of what a cheap call takes on from the full ones before it."""

    network: nn.Module
    splits: tuple[Split, ...]
    order: int

    def full(self, call: Callable[[], Result], x: Tensor, t: Any, before: Kept | None) -> tuple[Result, Kept]:
        """(call(), the state after it). call: runs the network. x, t: what it reads. before: the state until now."""
        outputs, shapes = Outputs(), Outputs()
        with recording(self.network, self.splits, outputs, shapes):
            result = call()
        older = None if before is None or not self.order else replace(before, before=None)
        return result, Kept(like(x), t, outputs, shapes, older)

    def cheap(self, call: Callable[[], Result], t: Any, state: Kept) -> Result:
        """call() with what is kept in the place of the skipped modules."""
        with reusing(self.network, self.splits, state.at(t, self.order), state.shapes):
            return call()


def like(x: Tensor) -> tuple:
    """What a full call's x and those of its cheap calls have in common."""
    return tuple(x.shape), x.dtype, str(x.device)


def _across(share: Tensor, output: Tensor) -> Tensor:
    """The weight [B] or [] of each sample beside its part of the output."""
    share = share.to(output.device, output.dtype)
    return share if share.ndim == 0 else share.view(-1, *[1] * (output.ndim - 1))

"""What a full call leaves for cheap ones, and the two calls themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """What a full call leaves for cheap ones.

    x: its `like`. place: where it is on the line along which cheap calls extrapolate. before: the full call before it.
    """

    x: tuple
    place: Any
    outputs: Outputs
    shapes: Outputs
    before: Kept | None = None

    def check(self, x: Tensor) -> None:
        """Raises ValueError where x is not like the full call's."""
        if like(x) != self.x:
            raise ValueError(f"state: kept from a full call of x {self.x}, got {like(x)}")

    def latest(self, count: int) -> Kept:
        """The same with no more than so many full calls."""
        older = self.before if count > 1 else None
        return replace(self, before=None if older is None else older.latest(count - 1))

    def at(self, place: Any) -> Outputs:
        """The outputs there: on the polynomial through those of all full calls that are kept."""
        if self.before is None:
            return self.outputs
        calls: list[Kept] = [self]
        while (older := calls[-1].before) is not None:
            calls.append(older)
        weights = _weights(place, [call.place for call in calls])[1:]

        def extrapolated(newest: Any, *others: Any) -> Any:
            if not isinstance(newest, Tensor):
                return newest
            pairs = zip(weights, others, strict=True)
            return sum((_across(w, newest) * (other - newest) for w, other in pairs), start=newest)

        return pytree.tree_map(extrapolated, *(call.outputs for call in calls))


@dataclass(frozen=True)
class Keeper:
    """Runs a network in full or in part. order: of the polynomial through what the latest full calls kept."""

    network: nn.Module
    splits: tuple[Split, ...]
    order: int

    def full(self, call: Callable[[], Result], x: Tensor, place: Any, before: Kept | None) -> tuple[Result, Kept]:
        """(call(), the state after it). call: runs the network on x. before: the state until now."""
        outputs, shapes = Outputs(), Outputs()
        with recording(self.network, self.splits, outputs, shapes):
            result = call()
        return result, Kept(like(x), place, outputs, shapes, before).latest(1 + self.order)

    def cheap(self, call: Callable[[], Result], place: Any, state: Kept) -> Result:
        """call() with what is kept in the place of the skipped modules."""
        with reusing(self.network, self.splits, state.at(place), state.shapes):
            return call()


def like(x: Tensor) -> tuple:
    """What a full call's x and those of its cheap calls have in common."""
    return tuple(x.shape), x.dtype, str(x.device)


def _weights(place: Any, places: Sequence[Any]) -> list[Tensor]:
    """Of each output, [B] or []: Lagrange's, of the polynomial through these places, the newest first.

    A place that is infinite, as pure noise is, or that came before says nothing; the newest always counts.
    """
    at, *nodes = (torch.as_tensor(v, dtype=torch.float64) for v in (place, *places))
    counts = [torch.ones_like(nodes[0], dtype=torch.bool)]
    for i, node in enumerate(nodes[1:], 1):
        new = torch.stack([node != other for other in nodes[:i]]).all(0)
        counts.append(new & node.isfinite() & nodes[0].isfinite())

    def weight(i: int) -> Tensor:
        product = counts[i].double()
        for j, other in enumerate(nodes):
            if j != i:
                use = counts[i] & counts[j]
                product = product * torch.where(use, (at - other) / torch.where(use, nodes[i] - other, 1.0), 1.0)
        return product

    return [weight(i) for i in range(len(nodes))]


def _across(share: Tensor, output: Tensor) -> Tensor:
    """The weight [B] or [] of each sample beside its part of the output."""
    return share if share.ndim == 0 else share.to(output).view(-1, *[1] * (output.ndim - 1))

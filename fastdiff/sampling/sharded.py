"""Samples of which each process has a part: what a run has to know of the others' parts to draw the same sample.

The step itself is elementwise. What is not: noise, which is numbered by the place in the whole sample, and whatever is
summed, compared or sorted over a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..ops.definitions.threshold import between, dynamic_threshold, largest, order_statistics
from .noise import randn
from .ranks import Ranks


@dataclass(frozen=True)
class Sharded:
    """Each process of a group has a part of one dimension of every sample: `fastdiff.sample(..., shard=)`.

    dim: the dimension of x [B, ...] that is divided, 1 or more, or counted from the end. size: how long it is in the
    whole sample, divided as `torch.tensor_split` does; or how long it is in each process, in their order.
    group: a process group or a DeviceMesh of one dimension; None is all processes, or this one alone without
    torch.distributed.
    Raises TypeError or ValueError naming the argument.

    >>> shard = Sharded(dim=2, size=21)
    >>> noise = shard.part(fd.noise.randn((1, 4, 21, 8, 8), seeds=[7]))  # the same numbers, however many processes
    """

    dim: int
    size: int | Sequence[int]
    group: Any = None
    sizes: tuple[int, ...] = field(init=False, repr=False)
    ranks: Ranks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ranks = Ranks(self.group)
        if ranks.rank < 0:
            raise ValueError("group: expected one that this process is in")
        if self.dim == 0:
            raise ValueError("dim: expected a dimension after the batch; samples shared out whole need no shard")
        sizes = _divided(self.size, ranks.count) if isinstance(self.size, int) else tuple(self.size)
        if len(sizes) != ranks.count or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise ValueError(
                f"size: expected at least one position for each of {ranks.count} processes, got {self.size}"
            )
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "ranks", ranks)

    @property
    def start(self) -> int:
        """The first of this process's positions."""
        return sum(self.sizes[: self.ranks.rank])

    @property
    def own(self) -> int:
        """How many positions this process has."""
        return self.sizes[self.ranks.rank]

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of whole samples [B, ...], contiguous. Raises ValueError where they are not whole."""
        self._check_dim("whole", whole, sum(self.sizes))
        return whole.narrow(self.dim, self.start, self.own).contiguous()

    def whole(self, part: Tensor) -> Tensor:
        """The samples [B, ...] whose parts the processes have, in all of them. All have to call it."""
        self._check_dim("part", part, self.own)
        return torch.cat(self._all_of(part, self.dim, self.sizes), self.dim)

    def check(self, noise: Tensor) -> None:
        """Raises ValueError where noise is not this process's part of samples."""
        self._check_dim("noise", noise, self.own)

    def noise(self, seeds: Tensor, index: int, like: Tensor) -> Tensor:
        """This process's part of a run's noise of this number. It is drawn whole: memory for a moment."""
        shape = list(like.shape)
        shape[self.dim] = sum(self.sizes)
        return self.part(randn(shape, seeds, index=index, dtype=like.dtype, device=like.device))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' values, added in their order: the same bits in all."""
        if self.ranks.count == 1:
            return values
        return torch.stack(self._all_of(values, 0, [len(values)] * self.ranks.count)).sum(0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all elements of x-like values, float64."""
        count = values.numel() // self.own * sum(self.sizes)
        return self.sum(values.double().sum()[None])[0] / count

    def dynamic_threshold(self, x0: Tensor, *, ratio: float, limit: float) -> Tensor:
        """[B] what `fastdiff.ops.dynamic_threshold` says of whole samples, to the bit: the largest are exchanged."""
        elements = [x0.shape[1:].numel() // self.own * n for n in self.sizes]
        if not sum(elements):
            return dynamic_threshold(x0, ratio=ratio, limit=limit)
        keep, fraction = order_statistics(sum(elements), ratio)
        theirs = self._all_of(largest(x0, keep), 1, [min(keep, n) for n in elements])
        return between(torch.cat(theirs, 1).topk(keep, dim=1).values, fraction, limit)

    def _check_dim(self, name: str, x: Tensor, size: int) -> None:
        if not -x.ndim < self.dim < x.ndim or self.dim % x.ndim == 0:
            raise ValueError(f"shard: expected a dimension of {tuple(x.shape)} after the first, got dim={self.dim}")
        if x.shape[self.dim] != size:
            raise ValueError(f"{name}: expected {size} positions in dimension {self.dim}, got {tuple(x.shape)}")

    def _all_of(self, own: Tensor, dim: int, sizes: Sequence[int]) -> list[Tensor]:
        """The tensors of all processes, which are so long in a dimension. They travel at the length of the longest."""
        if self.ranks.count == 1:
            return [own]
        first = own.movedim(dim, 0)
        sent = own.new_zeros((max(sizes), *first.shape[1:]))
        sent[: len(first)] = first
        every = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(every, sent, group=self.ranks.group)
        return [each[:n].movedim(0, dim) for each, n in zip(every, sizes, strict=True)]


def _divided(size: int, count: int) -> tuple[int, ...]:
    """The sizes that `torch.tensor_split` gives."""
    return tuple(size // count + (rank < size % count) for rank in range(count))

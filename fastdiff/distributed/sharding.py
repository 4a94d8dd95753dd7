"""shard: each process's part of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ..sampling.ranks import Ranks, bounds

Values = TypeVar("Values", bound=Sequence)


def shard(values: Values, *, group: Any = None, rank: int | None = None, ranks: int | None = None) -> Values:
    """This process's part of n values: number r of N has values[r n // N : (r + 1) n // N].

    Parts are neighbours in the list, hold every value once, and differ in length by one at most. The rule is that of
    `fit`, `ensemble` and jobs.

    values: what can be sliced: a range, list, tensor or string. group: a process group, all processes if None; without
    torch.distributed this process is alone and has all. rank, ranks: r and N, instead of those of the group.
    Raises ValueError naming the argument.

    >>> [shard(range(10), rank=r, ranks=3) for r in range(3)]
    [range(0, 3), range(3, 6), range(6, 10)]
    """
    if (rank is None) != (ranks is None):
        raise ValueError(f"rank: expected with ranks or without it, got rank={rank}, ranks={ranks}")
    if rank is None or ranks is None:
        processes = Ranks(group)
        rank, ranks = processes.rank, processes.count
    if not 0 <= rank < ranks:
        raise ValueError(f"rank: expected one of 0 to {ranks - 1}, got {rank}")
    first, last = bounds(len(values), rank, ranks)
    return values[first:last]  # type: ignore[return-value]

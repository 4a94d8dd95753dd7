"""The processes of torch.distributed that share the model's calls of a fit, of an ensemble or of a run's guidance.

In a fit each makes its part of a batch, and all get the whole of it. Everything that follows from the outputs is done
by every process, from the same bits, so all of them come to the same plan.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def alike(a: Any, b: Any) -> bool:
    """Equal, or lists of numbers that differ by what another order of summation leaves."""
    if isinstance(a, (list, tuple)) and np.shape(a) == np.shape(b):
        return bool(np.allclose(a, b, rtol=1e-3))
    return a == b


def initialised() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized()


def group_of(group: Any) -> Any:
    """The process group, also of a DeviceMesh of one dimension. Raises ValueError for one of more."""
    if getattr(group, "get_group", None) is None:
        return group
    if group.ndim != 1:
        raise ValueError(f"group: expected a DeviceMesh of one dimension, such as mesh['dp'], got {group}")
    return group.get_group()


WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(x: Tensor) -> str:
    """What tells x from other tensors, the same on every device. The host waits for it."""
    bits = x.detach().contiguous().flatten().view(WORDS[x.element_size()]).to(torch.int64)
    places = torch.arange(1, 2 * len(bits), 2, device=x.device)
    return f"{list(x.shape)} {x.dtype} {int((bits * places).sum()) % 2**64:016x}"  # the sum wraps, in any order


class Ranks:
    """The processes of a group; this one alone where torch.distributed is not initialised.

    group: a process group or a DeviceMesh of one dimension; None is all of them.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group_of(group)
        shared = initialised()
        self.count = dist.get_world_size(self.group) if shared else 1
        self.rank = dist.get_rank(self.group) if shared else 0

    @cached_property
    def on_host(self) -> bool:
        """Whether the processes can tell each other numbers without waiting for a device."""
        return self.count == 1 or "cpu:" in dist.get_backend_config(self.group)

    def told(self, word: int, device: torch.device) -> list[int]:
        """The whole number that each process tells, in their order. device: what the group's backend is for, if that
        is not the host."""
        words = torch.zeros(self.count, dtype=torch.int64, device="cpu" if self.on_host else device)
        words[self.rank] = word
        return self.sum(words).tolist()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reads, writes and reports."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of rows [n, ...], n >= 1.

        Where they are fewer than processes, those at the end get the last row, so that all call the model alike.
        """
        first, last = self.bounds(len(rows))
        return rows[first:last] if last > first else rows[-1:]

    def whole(self, own: Tensor, count: int) -> Tensor:
        """The rows [count, ...] of which each process has its `share`, the same bits in all."""
        if self.count == 1:
            return own
        first, last = self.bounds(count)
        rows = own.new_zeros((count, *own.shape[1:]))
        rows[first:last] = own[: last - first]
        dist.all_reduce(rows, group=self.group)  # each row and zeros: exact in every precision
        return rows

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' values of one shape, in all of them."""
        return self._reduced(values, "SUM")

    def maximum(self, values: Tensor) -> Tensor:
        """The largest of all processes' values of one shape, element by element, in all of them."""
        return self._reduced(values, "MAX")

    def largest(self, value: float) -> float:
        """The largest of all processes' values."""
        return max(self._gathered(value))

    def every(self, value: Value) -> list[Value]:
        """All processes' values, in their order."""
        return self._gathered(value)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, in all of them; so is what it raises."""
        if self.count == 1:
            return make()
        made: list[Any] = [None, None]
        if self.is_first:
            try:
                made[0] = make()
            except (ValueError, OSError) as error:
                made[1] = error
        dist.broadcast_object_list(made, src=self.name_of(0), group=self.group)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def require_same(self, **values: object) -> None:
        """Raises ValueError naming what the processes have different values of."""
        found = self._gathered(values)
        for name in values:
            every = [each[name] for each in found]
            if not all(alike(other, every[0]) for other in every):
                raise ValueError(f"{name}: expected the same in all processes, got {every}")

    def name_of(self, rank: int) -> int:
        """The number among all processes of one of the group."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def bounds(self, count: int) -> tuple[int, int]:
        """The first of this process's rows of so many, and the one after the last."""
        return bounds(count, self.rank, self.count)

    def _reduced(self, values: Tensor, by: str) -> Tensor:
        if self.count == 1:
            return values
        result = values.clone()
        dist.all_reduce(result, getattr(dist.ReduceOp, by), group=self.group)
        return result

    def _gathered(self, value: Any) -> list[Any]:
        if self.count == 1:
            return [value]
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, value, group=self.group)
        return every


def bounds(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first of so many things that fall to one of the processes, and the one after the last.

    They are neighbours, of each thing there is one owner, and the shares differ by one at most.
    """
    return rank * count // ranks, (rank + 1) * count // ranks

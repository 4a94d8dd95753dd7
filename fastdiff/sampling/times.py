"""The tensors t that a run gives the model, one for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Times = Sequence[Tensor]  # the model's t at each row, [copies * B]


def each_on_device(
    values: Sequence[float] | np.ndarray, count: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """A tensor [count] for each value, all copied to the device at once."""
    return _column(values, count, dtype).to(device, non_blocking=True).unbind(0)


def _column(values: Sequence[float] | np.ndarray, count: int, dtype: torch.dtype) -> Tensor:
    """[len(values), count] on the CPU."""
    column = torch.from_numpy(np.array(values, dtype=np.float64)[:, None])
    return column.to(dtype).expand(-1, count).contiguous()


class _Lent(NamedTuple):
    memory: Tensor  # [rows, count], of which `times` are views
    clean: Tensor  # what `memory` held at first
    times: tuple[Tensor, ...]

    def fits(self, count: int, dtype: torch.dtype) -> bool:
        """Whether these are [count] of the dtype and as they were made. Views share their version with memory."""
        memory = self.memory
        same = memory.shape[1] == count and memory.dtype == dtype and memory._version == 0
        return same and torch.equal(memory, self.clean) and not any(t.requires_grad for t in self.times)


class KeptTimes:
    """The times of a plan on the CPU, kept from run to run because they take as long to make as rows take to run.

    They are lent to one run at a time. A model may write to its t: such times are not lent again.
    """

    def __init__(self, values: np.ndarray) -> None:
        self._values, self._kept = values, list[_Lent]()

    def borrow(self, count: int, dtype: torch.dtype) -> _Lent:
        """Times [count] each, until `give_back`."""
        try:
            kept = self._kept.pop()  # in one operation: no two threads get the same
        except IndexError:
            kept = None
        if kept is not None and kept.fits(count, dtype):
            return kept
        with torch.inference_mode(False):  # or nothing would tell that they were written to
            memory = _column(self._values, count, dtype)
            return _Lent(memory, memory.clone(), memory.unbind(0))

    def give_back(self, lent: _Lent) -> None:
        """Keep the times of one run; those of others that ran meanwhile are dropped."""
        self._kept[:] = [lent]

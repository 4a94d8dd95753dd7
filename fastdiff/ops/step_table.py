"""A plan's steps as a table on the device: a launch runs the row that a device counter names and moves it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_NO_WEIGHTS = ((), None, None, None)  # the end of a call beside one that has weights


class StepTable:
    """Steps of one run, laid out for the kernel, with the counter and the times the model is told.

    t: [...] float32 or float64, where the time of the row that is next is written. The steps are changed by `write`,
    in place, so that captured launches serve whatever was written last.
    """

    def __init__(self, rows: int, t: Tensor) -> None:
        self.rows, self.t = rows, t
        self._counter = torch.zeros(1, dtype=torch.int64, device=t.device)
        self._times = torch.zeros(rows, *t.shape, dtype=t.dtype, device=t.device)
        self._steps: Tensor | None = None
        self._launch: tuple[int, ...] | None = None

    def write(self, calls: Sequence[tuple[Any, ...]], times: Tensor) -> None:
        """calls: for each row the arguments of a `solver_step` backend. times: [rows], float64, on the CPU.

        Rows with weights are run by another kernel, which then runs the others too. It reads the weights anew at every
        launch, from where they are now.
        """
        longest = max(len(call) for call in calls)
        calls = [call if len(call) == longest else (*call, *_NO_WEIGHTS) for call in calls]
        packed = [_C().solver_step_pack(*call) for call in calls]
        narrowest = min(packed, key=lambda row: row[2])
        launch = tuple(narrowest[1:])
        if self._launch not in (None, launch):
            raise RuntimeError(f"step table: the launch {launch} differs from the captured one, {self._launch}")
        data = torch.frombuffer(bytearray(b"".join(row[0] for row in packed)), dtype=torch.int64)
        if self._steps is None:
            self._steps = torch.empty_like(data, device=self.t.device)
        self._launch = launch
        self._steps.copy_(data, non_blocking=True)
        self._write_times(times)

    def _write_times(self, times: Tensor) -> None:
        column = times.to(self.t.dtype).view(-1, *[1] * self.t.ndim)
        self._times.copy_(column.expand(self._times.shape).contiguous(), non_blocking=True)

    def rewind(self) -> None:
        """Begin at the first row."""
        self._counter.zero_()
        self.t.copy_(self._times[0])

    def launch(self) -> None:
        """Run the next row. `write` comes first."""
        assert self._launch is not None
        _C().solver_step_table(self._steps, self._counter, self._times, self.t, *self._launch)


class _Memory:
    """A tensor's memory as others describe it to torch."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.element_size()
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "strides": tuple(size * step for step in tensor.stride()),
            "typestr": f"<i{size}",
            "data": (tensor.data_ptr(), False),
        }


def borrowed(tensor: Tensor) -> Tensor:
    """The CUDA tensor's memory, without keeping it from being used again: a graph's own allocations come and go."""
    return torch.as_tensor(_Memory(tensor), device=tensor.device).view(tensor.dtype)


def _C() -> Any:
    """The compiled extension, imported when a table is first written: there may be none."""
    from . import _C

    return _C

"""Tensors as memory of another process (buffers.h)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def flat(t: Tensor) -> Tensor:
    """All of the storage that t is a view of."""
    return t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)


class Buffers:
    """Storages, and pointers into them as (buffer << 32) + byte offset."""

    def __init__(self) -> None:
        self._data: dict[int, tuple[int, np.ndarray]] = {}

    def pointer(self, t: Tensor) -> int:
        data = flat(t).view(torch.uint8).numpy()
        number, _ = self._data.setdefault(t.untyped_storage().data_ptr(), (len(self._data) + 1, data))
        return number << 32 | t.storage_offset() * t.element_size()

    def tobytes(self) -> bytes:
        parts = [np.int64(len(self._data)).tobytes()]
        for _, data in self._data.values():
            parts += [np.int64(data.size).tobytes(), data.tobytes()]
        return b"".join(parts)

    def take(self, answer: memoryview) -> memoryview:
        """Give every storage its new bytes; returns what follows them."""
        for _, data in self._data.values():
            data[:] = np.frombuffer(answer[: data.size], np.uint8)
            answer = answer[data.size :]
        return answer


def execute(
    program: Path, calls: Sequence[tuple[np.ndarray, Buffers]], report: np.dtype, *arguments: str
) -> list[np.void]:
    """Run the calls, each a struct and its buffers, which are left as the program left them. Returns its reports."""
    given = b"".join(struct.tobytes() + buffers.tobytes() for struct, buffers in calls)
    done = subprocess.run([program, *arguments], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    answer, reports = memoryview(done.stdout), []
    for _, buffers in calls:
        reports.append(np.frombuffer(answer[: report.itemsize], report)[0])
        answer = buffers.take(answer[report.itemsize :])
    assert not answer
    return reports

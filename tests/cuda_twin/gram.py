"""Feeds calls to the CPU build of gram's CUDA kernel code (gram_twin.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .buffers import Buffers, execute
from .twin import DTYPES, OPERAND

MAX_TENSORS, MAX_VECTORS, MAX_DIMS = 6, 4, 6
GRAM = np.dtype(
    [
        ("dims", "i4"),
        ("size", "i8", MAX_DIMS),
        ("tensors", "i4"),
        ("vectors", "i4"),
        ("wide", "?"),
        ("tensor", OPERAND, MAX_TENSORS),
        ("basis", "f8", (MAX_VECTORS, MAX_TENSORS)),
        ("device_basis", "u8"),
        ("basis_stride", "i8", 2),
        ("out", "u8"),
    ],
    align=True,
)
CASE = np.dtype([("gram", GRAM), ("lot", "u4")], align=True)
REPORT = np.dtype([*((name, "i8") for name in ("precision", "dense", "rounds", "parts")), ("text", "S96")])


@dataclass
class Call:
    """basis [n, k] for k tensors [B, ...]; on_device: it lies in the device's memory, with these strides."""

    basis: Tensor
    tensors: Sequence[Tensor | None]
    on_device: bool = False
    lot: int = 0
    out: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.basis) + 1
        self.out = torch.full((len(self.given[0]), size, size), torch.nan, dtype=torch.float64)

    @property
    def given(self) -> list[Tensor]:
        return [t for t in self.tensors if t is not None]

    def packed(self) -> tuple[np.ndarray, Buffers]:
        buffers, case = Buffers(), np.zeros((), CASE)
        case["lot"], gram = self.lot, case["gram"]
        shape = self.given[0].shape
        gram["dims"], gram["tensors"], gram["vectors"] = len(shape), len(self.tensors), len(self.basis)
        gram["size"][: len(shape)] = shape
        gram["wide"] = any(t.dtype == torch.float64 for t in self.given)
        for j, t in enumerate(self.tensors):
            if t is not None:
                stride = (*t.stride(), *[0] * (MAX_DIMS - t.ndim))
                gram["tensor"][j] = (buffers.pointer(t), DTYPES.index(t.dtype), stride)
        if self.on_device:
            gram["device_basis"], gram["basis_stride"] = buffers.pointer(self.basis), self.basis.stride()
        else:
            gram["basis"][: len(self.basis), : len(self.tensors)] = self.basis
        gram["out"] = buffers.pointer(self.out)
        return case, buffers


def run(program: Path, calls: Sequence[Call]) -> list[np.void]:
    """Run the calls; every buffer, `out` among them, is left as the kernels left it. Returns the reports."""
    return execute(program, [call.packed() for call in calls], REPORT)

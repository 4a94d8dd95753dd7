"""Feeds calls to the CPU build of group_norm's CUDA kernel code (group_norm_twin.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .buffers import Buffers, execute

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # the order of DType in dtype.h
FORMS = ("alone", "cluster", "together", "twice")
VALUES = ("weight", "bias", "add", "scale", "shift")
CHANNEL_VALUES = np.dtype([("data", "u8"), ("dtype", "i4"), ("row", "i8")], align=True)
NORM = np.dtype(
    [
        *((name, "u8") for name in ("x", "y")),
        ("dtype", "i4"),
        *((name, "i8") for name in ("batch", "channels", "positions", "groups")),
        ("channels_last", "?"),
        ("eps", "f4"),
        *((name, CHANNEL_VALUES) for name in VALUES),
        ("act", "i4"),
    ],
    align=True,
)
CHIP = np.dtype([(name, "i4") for name in ("arch", "multiprocessors", "block_shared", "shared")])
CASE = np.dtype([("norm", NORM), ("chip", CHIP), ("lot", "u4")], align=True)
COUNTS = ("form", "width", "together", "pieces", "columns", "lanes", "share", "parts", "teams", "slabs", "shared",
          "blocks", "workspace")  # fmt: skip
REPORT = np.dtype([*((name, "i8") for name in COUNTS), ("text", "S96")])


class Chip(NamedTuple):
    arch: int
    multiprocessors: int
    block_shared: int  # bytes of shared memory: the most of a block
    shared: int  # of a multiprocessor


@dataclass
class Call:
    """y is written. x, y [B, C, P] contiguous, or [B, P, C] where `last`; None plans the call without running it."""

    chip: Chip
    shape: tuple[int, int, int]  # B, C, P
    groups: int
    dtype: torch.dtype
    last: bool = False
    x: Tensor | None = None
    y: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)  # [C] or [B, C] by name
    act: str = "none"
    eps: float = 1e-5
    lot: int = 0

    def packed(self) -> tuple[np.ndarray, Buffers]:
        buffers, case = Buffers(), np.zeros((), CASE)
        case["chip"], case["lot"], norm = self.chip, self.lot, case["norm"]
        norm["batch"], norm["channels"], norm["positions"] = self.shape
        norm["dtype"], norm["groups"], norm["channels_last"] = DTYPES.index(self.dtype), self.groups, self.last
        norm["eps"], norm["act"] = self.eps, self.act == "silu"
        if self.x is not None and self.y is not None:
            norm["x"], norm["y"] = buffers.pointer(self.x), buffers.pointer(self.y)
        for name, t in self.values.items():
            norm[name] = (buffers.pointer(t), DTYPES.index(t.dtype), t.stride(0) if t.ndim == 2 else 0)
        return case, buffers


class Report:
    """What the twin reports of a call."""

    def __init__(self, record: np.void) -> None:
        self.form, self.text = FORMS[record["form"]], record["text"].decode()
        self.counts = {name: int(record[name]) for name in COUNTS[1:]}

    def __getattr__(self, name: str) -> int:
        return self.counts[name]


def run(program: Path, calls: Sequence[Call]) -> list[Report]:
    """Run the calls; every buffer is left as the kernels left it."""
    return [Report(record) for record in execute(program, [call.packed() for call in calls], REPORT)]

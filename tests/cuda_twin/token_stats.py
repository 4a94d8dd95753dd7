"""Feeds calls to the CPU build of token_stats' CUDA kernel code (token_stats_twin.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdiff.ops import TokenStats

from .buffers import Buffers, execute
from .twin import DTYPES

LOGITS = np.dtype([("data", "u8"), ("stride", "i8", 2)], align=True)
ARRAYS = ("current", "positions", "seeds", "index", "temperature", "guidance", "shift")
STATS = np.dtype(
    [
        ("batch", "i8"),
        ("length", "i8"),
        ("vocabulary", "i8"),
        ("dtype", "i4"),
        ("logits", LOGITS),
        ("uncond", LOGITS),
        *((name, "u8") for name in ARRAYS),
        ("top_k", "i8"),
        ("top_p", "f8"),
        ("excluded", "i4"),
        ("exclude", "i8", 4),
        ("numbers", "u8"),
        ("tokens", "u8"),
    ],
    align=True,
)
CASE = np.dtype([("stats", STATS), ("lot", "u4")], align=True)
REPORT = np.dtype([(name, "i8") for name in ("parts", "aligned", "cut")])


@dataclass
class Call:
    """logits [B, L, V]; arrays by ARRAYS' names. The results begin as NaN."""

    logits: Tensor
    arrays: dict[str, Tensor]
    uncond: Tensor | None = None
    top_k: int = 0
    top_p: float = 1.0
    exclude: Sequence[int] = ()
    lot: int = 0
    numbers: Tensor = field(init=False)
    tokens: Tensor = field(init=False)

    def __post_init__(self) -> None:
        rows = self.logits.shape[:2]
        self.numbers = torch.full((7, *rows), torch.nan)
        self.tokens = torch.full((2, *rows), -1)

    @property
    def stats(self) -> TokenStats:
        return TokenStats(*self.tokens.unbind(), *self.numbers.unbind())

    def packed(self) -> tuple[np.ndarray, Buffers]:
        buffers, case = Buffers(), np.zeros((), CASE)
        case["lot"], stats = self.lot, case["stats"]
        stats["batch"], stats["length"], stats["vocabulary"] = self.logits.shape
        stats["dtype"] = DTYPES.index(self.logits.dtype)
        for name, t in (("logits", self.logits), ("uncond", self.uncond)):
            if t is not None:
                stats[name]["data"], stats[name]["stride"] = buffers.pointer(t), t.stride()[:2]
        for name, t in (*self.arrays.items(), ("numbers", self.numbers), ("tokens", self.tokens)):
            stats[name] = buffers.pointer(t)
        stats["top_k"], stats["top_p"] = self.top_k, self.top_p
        stats["excluded"], stats["exclude"][: len(self.exclude)] = len(self.exclude), self.exclude
        return case, buffers


def run(program: Path, calls: Sequence[Call]) -> list[np.void]:
    """Run the calls; every buffer, the results' among them, is left as the kernels left it. Returns the reports."""
    return execute(program, [call.packed() for call in calls], REPORT)

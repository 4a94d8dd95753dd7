"""Feeds cases to the CPU build of attention's CUDA kernel code (attention_twin.cpp)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .buffers import Buffers
from .buffers import execute as run_calls
from .twin import DTYPES

HEADS = np.dtype([("data", "u8"), ("stride", "i8", 3)])
CALL = np.dtype(
    [
        *((name, HEADS) for name in ("q", "k", "v", "out")),
        ("dtype", "i4"),
        *((name, "i8") for name in ("batch", "heads", "queries", "keys", "head_size")),
        ("scale", "f4"),
        ("multiprocessors", "i8"),
        ("shared_memory", "i8"),
        ("hopper", "i8"),
    ],
    align=True,
)
REPORT = np.dtype([("queries", "i8"), ("blocks", "i8"), ("kernel", "S64"), ("text", "S96")])


class Case(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    scale: float
    multiprocessors: int = 2
    shared_memory: int = 163 * 1024
    hopper: bool = False


def execute(program: Path, cases: list[Case]) -> list[np.void]:
    """Run the cases; every buffer is left as the kernel left it. Returns what the twin reports of each."""
    return run_calls(program, [_packed(case) for case in cases], REPORT)


def _packed(case: Case) -> tuple[np.ndarray, Buffers]:
    buffers, call = Buffers(), np.zeros((), CALL)
    for name in ("q", "k", "v", "out"):
        tensor = getattr(case, name)
        call[name]["data"], call[name]["stride"] = buffers.pointer(tensor), tensor.stride()[:3]
    call["dtype"] = DTYPES.index(case.q.dtype)
    call["batch"], call["heads"], call["queries"], call["head_size"] = case.q.shape
    call["keys"], call["scale"] = case.k.shape[2], case.scale
    for name in ("multiprocessors", "shared_memory", "hopper"):
        call[name] = getattr(case, name)
    return call, buffers

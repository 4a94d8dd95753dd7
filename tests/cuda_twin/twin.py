"""Feeds cases to the CPU build of solver_step's CUDA kernel code (twin.cpp)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdiff.ops.definitions.solver_step import MAX_OTHERS
from fastdiff.ops.reference import run_solver_step
from fastdiff.plans.table import MAX_HISTORY, ROW

from .buffers import Buffers, flat
from .buffers import execute as run_calls

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # the order of DType in solver_step.h
OPERAND = np.dtype([("data", "u8"), ("dtype", "i4"), ("stride", "i8", 6)], align=True)
STEP = np.dtype(
    [
        ("row", ROW),
        ("dims", "i4"),
        ("size", "i8", 6),
        *((name, OPERAND) for name in ("x", "base", "m", "m_uncond")),
        ("history", OPERAND, MAX_HISTORY - 1),
        *((name, OPERAND) for name in ("out_x", "out_base", "out_d", "out_input")),
        ("copies", "i4"),
        *((name, "u8") for name in ("guidance", "threshold", "seeds")),
        ("others", OPERAND, MAX_OTHERS),
        ("state", OPERAND),
        ("out_state", OPERAND),
        ("weights", "u8"),
        ("sets", "i4"),
    ],
    align=True,
)
REPORT = np.dtype([("precision", "i8"), ("width", "i8"), ("x", "i8"), ("y", "i8"), ("text", "S96")])

OUTPUTS = ("out_x", "out_base", "out_d", "out_input", "out_state")


@dataclass
class Case:
    """One call of a backend: the arguments of run_solver_step by name. Absent ones are None."""

    row: np.void
    x: Tensor
    base: Tensor | None
    m: Tensor
    m_uncond: Tensor | None
    history: list[Tensor | None]
    guidance: Tensor | None
    threshold: Tensor | None
    seeds: Tensor | None
    out_x: Tensor
    out_base: Tensor | None
    out_d: Tensor | None
    out_input: Tensor | None
    others: list[Tensor | None] = field(default_factory=list)
    state: Tensor | None = None
    weights: Tensor | None = None
    out_state: Tensor | None = None

    def inputs(self) -> Iterator[Tensor]:
        everything = (self.x, self.base, self.m, self.m_uncond, *self.history, *self.others, self.state)
        yield from (t for t in everything if t is not None)

    def outputs(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in OUTPUTS}
        return {name: t for name, t in named.items() if t is not None}

    def expected(self) -> dict[str, Tensor]:
        """Each output's whole storage, in float64, as the reference leaves it."""

        def wide(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.double()

        inputs = [wide(t) for t in (self.x, self.base, self.m, self.m_uncond)]
        history, others = ([wide(t) for t in tensors] for tensors in (self.history, self.others))
        combined = {"others": others, "state": wide(self.state), "weights": self.weights}
        new = {name: torch.empty(t.shape, dtype=torch.float64) for name, t in self.outputs().items()}
        outputs = {"out_base": None, "out_d": None, "out_input": None} | new
        table, per_sample = np.array([self.row], dtype=ROW), (self.guidance, self.threshold, self.seeds)
        run_solver_step(table, 0, *inputs, history, *per_sample, **outputs, **combined)
        left = {name: flat(t).double() for name, t in self.outputs().items()}
        for name, t in self.outputs().items():
            left[name] = left[name].clone()
            left[name].as_strided(t.shape, t.stride(), t.storage_offset()).copy_(new[name])
        return left


def _packed(case: Case) -> tuple[np.ndarray, Buffers]:
    buffers, step = Buffers(), np.zeros((), STEP)
    step["row"], step["dims"] = case.row, case.x.ndim
    step["size"][: case.x.ndim] = case.x.shape
    for name in ("x", "base", "m", "m_uncond", "state", *OUTPUTS):
        step[name] = operand(getattr(case, name), buffers)
    for k, t in enumerate(case.history):
        step["history"][k] = operand(t, buffers)
    for k, t in enumerate(case.others):
        step["others"][k] = operand(t, buffers)
    if case.weights is not None:
        step["weights"], step["sets"] = buffers.pointer(case.weights), case.weights.shape[1]
    if case.out_input is not None:
        step["copies"] = len(case.out_input) // max(len(case.x), 1)
    for name in ("guidance", "threshold", "seeds"):
        if getattr(case, name) is not None:
            step[name] = buffers.pointer(getattr(case, name))
    return step, buffers


def operand(t: Tensor | None, buffers: Buffers) -> np.void:
    record = np.zeros((), OPERAND)
    if t is not None:
        record["data"], record["dtype"] = buffers.pointer(t), DTYPES.index(t.dtype)
        record["stride"][: t.ndim] = t.stride()
    return record


def execute(program: Path, cases: list[Case], *, mixed: bool = False) -> list[np.void]:
    """Run the cases; every buffer is left as the kernel left it. Returns what the twin reports of each.

    mixed: as entries of a table that has steps with weights.
    """
    return run_calls(program, [_packed(case) for case in cases], REPORT, *["mixed"] * mixed)

"""Feeds mixtures to the CPU build of solver_step_rows' CUDA kernel code (rows_twin.cpp)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from solver_step_rows_cases import Mixture

from fastdiff.ops.definitions.solver_step import MAX_OTHERS
from fastdiff.ops.row_table import MAX_BUFFERS

from .buffers import Buffers
from .buffers import execute as run_calls
from .twin import OPERAND, REPORT, operand

STEP = np.dtype(
    [
        *((name, "u8") for name in ("table", "rows")),
        ("records", "i8"),
        ("dims", "i4"),
        ("size", "i8", 6),
        ("buffers", "i4"),
        ("buffer", "u8", MAX_BUFFERS),
        *((name, OPERAND) for name in ("layout", "m", "m_uncond", "out_input")),
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
ROWS_REPORT = np.dtype([*REPORT.descr, ("same", "i8")], align=True)


def _packed(mixture: Mixture) -> tuple[np.ndarray, Buffers]:
    memory, step, x = Buffers(), np.zeros((), STEP), mixture.buffers[0]
    step["table"], step["rows"] = memory.pointer(mixture.table), memory.pointer(mixture.rows)
    step["records"], step["dims"], step["size"][: x.ndim] = len(mixture.table), x.ndim, x.shape
    step["buffers"] = len(mixture.buffers)
    step["buffer"][: len(mixture.buffers)] = [memory.pointer(t) for t in mixture.buffers]
    step["layout"] = operand(x, memory)
    for name in ("m", "m_uncond", "out_input", "state", "out_state"):
        step[name] = operand(getattr(mixture, name), memory)
    for k, t in enumerate(mixture.others):
        step["others"][k] = operand(t, memory)
    if mixture.out_input is not None:
        step["copies"] = len(mixture.out_input) // len(x)
    for name in ("guidance", "threshold", "seeds", "weights"):
        if getattr(mixture, name) is not None:
            step[name] = memory.pointer(getattr(mixture, name))
    step["sets"] = 0 if mixture.weights is None else mixture.weights.shape[1]
    return step, memory


def execute(program: Path, mixtures: list[Mixture]) -> list[np.void]:
    """Run them; every buffer is left as the kernel left it. Returns what the twin reports of each."""
    return run_calls(program, [_packed(mixture) for mixture in mixtures], ROWS_REPORT)

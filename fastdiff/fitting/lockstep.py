"""Runs of several plans at once, a row at a time, so that the model sees their samples together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.row import LinearUpdate, Row
from ..sampling.registers import Registers, advance, moves_of
from .forward import combined
from .sources import Ask, Source

Run = Generator[Ask, Tensor, Tensor]


@torch.no_grad()
def drawn_together(source: Source, plans: Sequence[Plan], starts: Sequence[Tensor]) -> list[Tensor]:
    """The samples [S, ...] of each plan, float64; all rows are full.

    starts: its first states [S, ...], of the source's samples.
    """
    samples: list[Tensor] = [*starts]
    runs = [_run(plan, x) for plan, x in zip(plans, starts, strict=True)]
    asked = [(i, run, next(run)) for i, run in enumerate(runs)]
    while asked:
        outputs = source.outputs([ask for *_, ask in asked])
        left = []
        for (i, run, _), m in zip(asked, outputs, strict=True):
            try:
                left.append((i, run, run.send(m)))
            except StopIteration as end:
                samples[i] = end.value
        asked = left
    return samples


def _run(plan: Plan, x: Tensor) -> Run:
    """The plan from x; asks for the model's output at each row."""
    registers = Registers(x.double(), x.double())
    for i, (row, moves) in enumerate(zip(plan.rows, moves_of(plan.rows), strict=True)):
        m = yield Ask(registers.x * row.c_in, row.t, registers.x, row, i)
        registers = advance(registers, moves, partial(_step, row, m))
    return registers.x


def _step(
    row: Row, m: Tensor, x: Tensor, base: Tensor, history: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor | None, Tensor]:
    d = row.p_x * x + row.p_m * m
    new_base = _line(row.base, x, base, (d, *history)) if row.base and row.base_move == "write" else None
    return _line(row.x, x, base, (d, *history)), new_base, d


def _line(line: LinearUpdate, x: Tensor, base: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    return combined((line.base, line.x, *line.history), (base, x, *outputs[: len(line.history)]))

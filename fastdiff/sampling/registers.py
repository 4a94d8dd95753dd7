"""The register machine: what one row of a plan does to x, base and the history.

This is written here only. The caller decides what a register is (a tensor, a differentiable tensor, the number of a
buffer) and, through `step`, how the arithmetic is done and where its results live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ..plans.row import LinearUpdate, Row
from ..plans.table import MAX_HISTORY

T = TypeVar("T")


class Registers(NamedTuple, Generic[T]):
    """x: where the model is evaluated next. base: the last accepted state. history: H_1, H_2, ..., newest first."""

    x: T
    base: T
    history: tuple[T, ...] = ()


class Moves(NamedTuple):
    """What a row does to the registers besides arithmetic.

    reads: how many earlier outputs it reads. noises: how many noises it draws. base: where the next base comes from,
    see `Row.base_move`. drop: places in the history, 0 the newest output, that are dropped after the update. keeps: how
    many outputs are kept after that.
    """

    reads: int
    noises: int
    base: str
    drop: tuple[int, ...] = ()
    keeps: int = MAX_HISTORY


Step = Callable[[T, T, tuple[T, ...]], tuple[T, "T | None", T]]


def advance(registers: Registers[T], moves: Moves, step: Step[T]) -> Registers[T]:
    """The registers after a row. The given ones do not change, so a row can be run twice.

    step(x, base, earlier outputs) -> (x', base', D): the row's arithmetic. base' is read only where the row writes one.
    """
    x, base, history = registers
    new_x, new_base, d = step(x, base, history[: moves.reads])
    return Registers(new_x, *settle(moves, x, base, history, new_x, new_base, d))


def settle(
    moves: Moves, x: T, base: T, history: Sequence[T], new_x: T, new_base: T | None, d: T
) -> tuple[T, tuple[T, ...]]:
    """(the next base, the history) after a row that has given x', base' and D: what `advance` does after its step."""
    if moves.base == "next":
        base = new_x
    elif moves.base == "here":
        base = x
    elif moves.base == "write":
        assert new_base is not None
        base = new_base
    history = (d, *history)
    if moves.drop:
        history = tuple(h for k, h in enumerate(history) if k not in moves.drop)
    return base, history[: moves.keeps]


def moves_of(rows: Sequence[Row], keeps: int | None = None) -> tuple[Moves, ...]:
    """The moves of each row. keeps: how many outputs are kept throughout; if None, as many as later rows read."""
    needed, moves = 0, []
    for row in reversed(rows):
        kept = needed
        for k in sorted(row.drop_history):
            needed += needed > k
        lines = (row.x, row.base or LinearUpdate())
        reads = max(0, *(len(line.history) - 1 for line in lines))
        needed = max(needed - 1, reads)
        noises = len({j for line in lines for j, _ in line.noise})
        moves.append(Moves(reads, noises, row.base_move, row.drop_history, kept if keeps is None else keeps))
    return tuple(reversed(moves))


def noise_as_history(table: np.ndarray, moves: Sequence[Moves]) -> np.ndarray:
    """A table for steps that get their noises as tensors, placed in the history after the outputs that the row reads.

    Raises ValueError for a row that reads more outputs and noises than the history holds.
    """
    table = table.copy()
    for i, (record, move) in enumerate(zip(table, moves, strict=True)):
        place = 1 + move.reads
        if place + move.noises > MAX_HISTORY:
            raise ValueError(
                f"row {i}: it reads {place} outputs and {move.noises} noises, at most {MAX_HISTORY} are kept"
            )
        for line, xi in (("A", "xi_a"), ("B", "xi_b")):
            record[line][place : place + move.noises] = record[xi][: move.noises]
            record[xi] = 0.0
    return table

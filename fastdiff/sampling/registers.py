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
NO_UPDATE = LinearUpdate()


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
    return Registers(new_x, next_base(moves, x, base, new_x, new_base), next_history(moves, history, d))


def next_base(moves: Moves, x: T, base: T, new_x: T, new_base: T | None) -> T:
    """The base after a row that has given x' and base'."""
    if moves.base == "next":
        return new_x
    if moves.base == "here":
        return x
    if moves.base == "write":
        assert new_base is not None
        return new_base
    return base


def next_history(moves: Moves, history: Sequence[T], d: T) -> tuple[T, ...]:
    """The history, newest first, after a row that has given D."""
    history = (d, *history)
    if moves.drop:
        history = tuple(h for k, h in enumerate(history) if k not in moves.drop)
    return history[: moves.keeps]


def push_output(moves: Moves, outputs: list[T | None], d: T) -> None:
    """`next_history` in place, for a list of fixed length, oldest first, with None where there is no output yet."""
    if moves.drop:
        kept = next_history(moves, outputs[::-1], d)[: len(outputs)]
        outputs[:] = [None] * (len(outputs) - len(kept)) + [*reversed(kept)]
    else:
        del outputs[0]
        outputs.append(d)


def moves_of(rows: Sequence[Row], keeps: int | None = None) -> tuple[Moves, ...]:
    """The moves of each row. keeps: how many outputs are kept throughout; if None, as many as later rows read."""
    needed, moves = 0, []
    for row in reversed(rows):
        kept = needed
        for k in sorted(row.drop_history):
            needed += needed > k
        base = row.base or NO_UPDATE
        reads = max(1, len(row.x.history), len(base.history)) - 1
        needed = max(needed - 1, reads)
        noises = len({j for j, _ in (*row.x.noise, *base.noise)})
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
        if not move.noises:
            continue
        for line, xi in (("A", "xi_a"), ("B", "xi_b")):
            record[line][place : place + move.noises] = record[xi][: move.noises]
            record[xi] = 0.0
    return table

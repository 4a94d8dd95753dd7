"""A plan compiled for the loop: the buffers that each row reads and writes, known before the run starts."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..plans.plan import Plan
from ..plans.table import MAX_HISTORY
from .registers import Moves, Registers, advance, moves_of, next_history
from .times import KeptTimes


class Slots(NamedTuple):
    """The buffers of one row, by number. history: H_1, H_2, ..., newest first. base_out: None where none is written."""

    x: int
    base: int
    history: tuple[int, ...]
    x_out: int
    base_out: int | None
    d_out: int


class Assignment(NamedTuple):
    """calls: the buffers of the rows, each combination once; order: which of them each row has.

    states: the registers before each row and after the last one, as numbers of buffers.
    """

    calls: tuple[Slots, ...]
    order: tuple[int, ...]
    states: tuple[Registers[int], ...]


@dataclass(frozen=True)
class Program:
    """apart: buffers such that the rows of a turn write to none that they read, and can be run again.

    table: the plan's rows; c_in is the next row's, since a row writes what the model reads next. times: [rows] float64.
    kept_times: tensors of them, for runs on the CPU.
    scales: whether any row's c_in is not 1. keeps_outputs: whether any row reads an earlier one's D. stochastic,
    partial: as the plan is.
    """

    moves: tuple[Moves, ...]
    apart: Assignment
    table: np.ndarray
    times: np.ndarray
    kept_times: KeptTimes
    scales: bool
    keeps_outputs: bool
    stochastic: bool
    partial: bool

    @cached_property
    def in_place(self) -> Assignment:
        """Buffers such that x' takes the place of an earlier output that no later row reads: less memory to go over.

        It never takes the place of x, which the model may still hold.
        """
        return _assign(self.moves)


_programs: dict[int, tuple[weakref.ref[Plan], Program]] = {}


def program_of(plan: Plan) -> Program:
    """The plan's program, compiled once. It is found by identity: hashing a plan takes longer than running it."""
    found = _programs.get(id(plan))
    if found is not None and found[0]() is plan:
        return found[1]
    program, name = _compile(plan), id(plan)
    _programs[name] = weakref.ref(plan, lambda _: _programs.pop(name, None)), program
    return program


def next_c_in(table: np.ndarray) -> np.ndarray:
    """The table with every c_in moved to the row before, which is the one that writes the scaled model input."""
    table = table.copy()
    table["c_in"] = np.append(table["c_in"][1:], 1.0)
    return table


def with_guidance(table: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """The table with one guidance scale for all samples, the same in all rows or [rows]."""
    table = table.copy()
    table["guidance"] = scale
    return table


def _compile(plan: Plan) -> Program:
    moves = moves_of(plan.rows)
    table = next_c_in(plan.table)
    table.flags.writeable = False
    times = np.array([row.t for row in plan.rows])
    return Program(
        moves,
        _assign(moves, plan.turns),
        table,
        times,
        KeptTimes(times),
        any(row.c_in != 1 for row in plan.rows),
        plan.depth > 1,
        plan.stochastic,
        plan.partial,
    )


def _assign(moves: tuple[Moves, ...], turns: tuple[range, ...] | None = None) -> Assignment:
    """Advance registers that hold buffer numbers. The start is buffer 0; a row writes to the lowest free numbers.

    turns: what their rows read stays until their end; where there are none, rows are in place.
    """
    begins = {i: turn[0] for turn in turns or () for i in turn}
    longest = max(map(len, turns or ()), default=1)
    states: list[Registers[int]] = [Registers(0, 0)]
    calls: list[Slots] = []
    # More than are ever live: x, base, the history and three outputs of each row.
    numbers = range(MAX_HISTORY + 2 + 3 * longest)

    def step(x: int, base: int, history: tuple[int, ...]) -> tuple[int, int | None, int]:
        outputs = states[-1].history
        since = begins.get(len(calls), len(calls))
        live = {number for state in states[since:] for number in (state.x, state.base, *state.history)}
        free = (number for number in numbers if number not in live)
        last_read = set(outputs) - set(next_history(move, outputs, -1)) if turns is None and not writes else ()
        written = max(last_read, default=None)
        x_out = next(free) if written is None else written
        base_out = next(free) if writes else None
        calls.append(Slots(x, base, history, x_out, base_out, next(free)))
        return x_out, base_out, calls[-1].d_out

    for move in moves:
        writes = move.base == "write"
        states.append(advance(states[-1], move, step))
    distinct = tuple(dict.fromkeys(calls))
    places = {call: place for place, call in enumerate(distinct)}
    return Assignment(distinct, tuple(places[call] for call in calls), tuple(states))

"""Rows in turns: those whose states are known together, so that one call of the model can make their evaluations.

Row i + 1 joins the turn of row i where its state is made without any output of the turn. A stage inside a step that is
extrapolated from the outputs before the step is such a state: the model can be asked about it and about the step's
beginning at once. Parallel evaluations of this kind are those of EPD-Solver (arXiv 2507.14797).
"""

from __future__ import annotations

from collections.abc import Sequence

from .row import Row


def turns_of(rows: Sequence[Row]) -> tuple[range, ...]:
    """The places of the rows of each turn, in order. Most solvers' turns hold a row each."""
    turns, first = [], 0
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or not _goes_on(row, i + 1 - first) or "cheap" in (row.call, rows[i + 1].call)
        if last:
            turns.append(range(first, i + 1))
            first = i + 1
    return tuple(turns)


def unknown_outputs(rows: Sequence[Row]) -> tuple[int, ...]:
    """[rows] how many of the newest outputs, its own included, a row has to do without, so that its turn goes on."""
    return tuple(place + 1 if i != turn[-1] else 0 for turn in turns_of(rows) for place, i in enumerate(turn))


def _goes_on(row: Row, count: int) -> bool:
    """Whether what the row leaves is made without the `count` newest outputs."""
    lines = [row.x] if row.base is None else [row.x, row.base]
    return not row.drop_history and not any(weight for line in lines for weight in line.history[:count])

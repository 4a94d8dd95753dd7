"""Jumps back: stretches of a run taken again from more noise (RePaint, Lugmayr et al. 2022, algorithm 1).

Where a mask or an observation changes one part of x, the other parts need time to agree with it. Every `length` steps
the run goes back by noise and takes the stretch again, `times` in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .row import LinearUpdate, Row, with_one_noise
from .schedule import Points
from .solvers.churn import renoised
from .table import MAX_NOISE

Build = Callable[[Points], list[Row]]


def with_jumps(build: Build, points: Points, length: int, times: int) -> list[Row]:
    """The rows of the stretches, each a run of its own. build: the rows of a solver on some points.

    Raises ValueError where the numbers are no such.
    """
    steps = len(points.t) - 1
    for name, value, most in (("length", length, steps), ("times", times, None)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            raise ValueError(
                f"jumps: expected (length, times), whole numbers >= 1 and a length of {steps} steps at most, got {name}"
                f" {value!r}"
            )
    rows: list[Row] = []
    for first in range(0, steps, length):
        stretch = points.at(slice(first, min(first + length, steps) + 1))
        for again in range(times):
            rows += _after(rows, build(stretch))
            if again < times - 1:
                rows[-1] = _back(rows, stretch)
    return rows


def _back(rows: list[Row], stretch: Points) -> Row:
    """The last row, going on from the stretch's end to its begin."""
    row = renoised(rows[-1], stretch.at(-1), stretch.at(0), _latest(rows) + 1, 1.0)
    return with_one_noise(row) if len(row.x.noise) > MAX_NOISE else row


def _after(before: list[Row], rows: list[Row]) -> list[Row]:
    """The rows with noises that no row before them has drawn."""
    latest = _latest(before)

    def moved(line: LinearUpdate) -> LinearUpdate:
        return replace(line, noise=tuple((latest + j, weight) for j, weight in line.noise))

    return [replace(row, x=moved(row.x), base=None if row.base is None else moved(row.base)) for row in rows]


def _latest(rows: list[Row]) -> int:
    """The last noise that they draw; 0 is the start's."""
    return max((j for row in rows for line in (row.x, row.base) if line for j, _ in line.noise), default=0)

"""Rows of a plan as a scheduler's `step` runs them: the kernel's records, and what each reads besides x and m."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..plans.limits import with_x0_input, x0_row
from ..plans.plan import Plan
from ..plans.row import OUTPUT, LinearUpdate, Row
from ..plans.schedule import Points
from ..plans.table import MAX_HISTORY
from ..sampling.registers import Moves, moves_of, noise_as_history

FAINT = 1e-20  # an alpha near 0 whose quotients are finite in float32


class RowReads(NamedTuple):
    """What a row does to the registers, and what it needs besides them.

    output: whether m is read again, next to earlier outputs. draws: how many noises come after that. keeps: whether D
    joins the history.
    """

    moves: Moves
    output: bool
    draws: int
    keeps: bool


class Refused:
    """In place of RowReads, a row that cannot be made. Only the step that would take it fails."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __iter__(self) -> Iterator:
        """A step takes its row apart first."""
        raise ValueError(self.reason)


class Threshold(NamedTuple):
    """Dynamic thresholding: of what a model predicts, at which quantile, with which largest limit."""

    prediction: str
    ratio: float
    limit: float


class Table(NamedTuple):
    """The kernel's records and what they read. depth: outputs that are kept.

    threshold, x0: how x0 is limited before the rows read it, and the records whose D is x0, see `x0_row`.
    """

    records: np.ndarray
    rows: tuple[RowReads | Refused, ...]
    depth: int
    threshold: Threshold | None = None
    x0: np.ndarray | None = None


UNUSED = Row(0.0, 1.0, 1.0, "data", 0.0, 1.0, LinearUpdate(x=1.0))


def attempt(make: Callable[[], Row]) -> Row | Refused:
    """The row, or why there is none."""
    try:
        row = make()
    except ValueError as error:
        return Refused(str(error))
    numbers = row.alpha, row.sigma, row.p_x, row.p_m, row.x.x, *row.x.history, *(weight for _, weight in row.x.noise)
    if all(math.isfinite(number) for number in numbers):
        return row
    return Refused(f"timestep: the schedule has no finite step from t = {row.t:g}, where alpha = {row.alpha:g}")


def make_table(
    rows: Sequence[Row | Refused],
    clamp: float | None = None,
    threshold: Threshold | None = None,
    keeps: bool = True,
) -> Table:
    """The rows with their noises as operands next to the history: a scheduler's noise is a tensor.

    clamp: bound on |x0|, for rows in data form. keeps: whether outputs are kept that no later row reads.
    """
    refused = {i: row for i, row in enumerate(rows) if isinstance(row, Refused)}
    if refused:
        made = make_table([UNUSED if i in refused else row for i, row in enumerate(rows)], clamp, threshold, keeps)
        return made._replace(rows=tuple(refused.get(i, reads) for i, reads in enumerate(made.rows)))
    if threshold is not None:
        x0 = make_table([x0_row(row, threshold.prediction) for row in rows]).records
        read = make_table([with_x0_input(row, threshold.prediction) for row in rows], keeps=keeps)
        return read._replace(threshold=threshold, x0=x0)
    plan = Plan(tuple(rows), (1.0, 0.0), "sample")  # checks the rows; where they end does not matter here
    moves = moves_of(plan.rows, keeps=MAX_HISTORY)
    records, keeps = noise_as_history(plan.table, moves), keeps or plan.depth > 1
    if clamp is not None:
        records["clamp"] = clamp
    records.flags.writeable = False
    return Table(
        records, tuple(_reads(row, move, keeps) for row, move in zip(plan.rows, moves, strict=True)), plan.depth
    )


def _reads(row: Row, moves: Moves, keeps: bool) -> RowReads:
    output = any(j == OUTPUT for line in (row.x, row.base or LinearUpdate()) for j, _ in line.noise)
    return RowReads(moves, output, moves.noises - output, keeps)


def with_noise(row: Row, index: int = 1) -> Row:
    """The row with a noise, of weight 0 where it has none: diffusers draws it all the same."""
    return row if row.x.noise else replace(row, x=replace(row.x, noise=((index, 0.0),)))


def bounded_starts(points: Points) -> Points:
    """The points for rows that bound x0: at alpha = 0, eps says on which side of 0 x0 lies, and so at which bound."""
    return points._replace(alpha=np.where(points.alpha == 0, FAINT, points.alpha))

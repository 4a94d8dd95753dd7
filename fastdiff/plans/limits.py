"""Bounds on x0 where a row's output D has another form: x0 is made and limited first, then the row reads it.

x, the model's output and x0 are linear in one another at a row, x0 = d_x x + d_m m, so D = p_x x + p_m m is also

    D = (p_x - p_m d_x / d_m) x + (p_m / d_m) x0

and the history stays in the row's own form. At sigma = 0 x itself is x0, whatever the model says: no bound is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .prediction import convert
from .row import LinearUpdate, Row, table_of


def splits(row: Row) -> bool:
    """Whether a bound on x0 takes a launch of its own at this row."""
    return row.form != "data" and row.sigma > 0


def x0_row(row: Row, prediction: str) -> Row:
    """A row that only makes x0."""
    p_x, p_m = (row.p_x, row.p_m) if row.form == "data" else convert(prediction, "data", row.alpha, row.sigma)
    return replace(row, form="data", p_x=p_x, p_m=p_m, x=LinearUpdate(history=(1.0,)), base=None, drop_history=())


def with_x0_input(row: Row, prediction: str) -> Row:
    """The row of a model of this prediction as one that is given x0 instead.

    Raises ValueError at sigma = 0 unless D is x0: nothing else follows from x0 there.
    """
    if row.form == "data":  # D is x0 itself: dividing p_m by itself would leave rounding in the weight of x
        return replace(row, p_x=0.0, p_m=1.0)
    if row.sigma == 0:
        raise ValueError("plan: a row that evaluates the model at sigma = 0 cannot be given x0; its D is no x0")
    d_x, d_m = convert(prediction, "data", row.alpha, row.sigma)
    return replace(row, p_x=row.p_x - row.p_m * d_x / d_m, p_m=row.p_m / d_m)


class Limited(NamedTuple):
    """A plan's rows for runs with bounds on x0. splits: which take a launch of their own for it.

    reading: the plan's table, where those rows read x0. making: the table of rows that only make x0, the plan's own
    where x itself is x0.
    """

    splits: tuple[bool, ...]
    reading: np.ndarray
    making: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row], prediction: str, table: np.ndarray) -> Limited:
        """For the rows of a plan, whose own table is given."""
        parts = tuple(map(splits, rows))
        pairs = list(zip(rows, parts, strict=True))
        making = table_of([x0_row(row, prediction) if part or row.form == "data" else row for row, part in pairs])
        if not any(parts):
            return cls(parts, table, making)
        return cls(parts, table_of([with_x0_input(row, prediction) if part else row for row, part in pairs]), making)

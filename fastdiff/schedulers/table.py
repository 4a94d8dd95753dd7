"""Rows of a plan as a scheduler's `step` runs them: one record of the kernel's table, one entry of what it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..ops.row import MAX_HISTORY
from ..plan import Line, Plan, Row
from ..prediction import convert
from ..schedule import Points

OUTPUT = 0  # in place of a noise's index in a row: the model's output itself, as the row's first extra operand


class Entry(NamedTuple):
    """What row i needs besides x and m, and what it leaves.

    reads: how many outputs before this one. output: whether m is read again, next to them. draws: how many noises come
    after that. move: where the next base comes from (`Row.base_move`). keeps: whether D joins the history. forget:
    places in the history to drop, the furthest back first.
    """

    reads: int
    output: bool
    draws: int
    move: str
    keeps: bool
    forget: tuple[int, ...]


class Table(NamedTuple):
    """The kernel's records and their entries. depth: outputs that are kept. x0: records whose D is x0, see `of_x0`."""

    records: np.ndarray
    entries: tuple[Entry, ...]
    depth: int
    x0: np.ndarray | None = None


def make_table(
    rows: Sequence[Row],
    end: tuple[float, float],
    clamp: float | None = None,
    thresholded: str | None = None,
    keeps: bool = True,
) -> Table:
    """The rows with their noises as operands next to the history: a scheduler's noise is a tensor.

    clamp: bound on |x0|, for rows in data form. thresholded: the prediction of a model whose x0 is thresholded before
    the row reads it. keeps: whether outputs are kept that no later row reads.
    """
    if thresholded is not None:
        x0 = make_table([of_x0(row, thresholded) for row in rows], end).records
        return make_table([reading_x0(row) for row in rows], end, keeps=keeps)._replace(x0=x0)
    plan = Plan(tuple(rows), end, "sample")
    records, entries = plan.table.copy(), []
    keeps = keeps or plan.depth > 1
    if clamp is not None:
        records["clamp"] = clamp
    for record, row in zip(records, plan.rows, strict=True):
        lines = (row.x, row.base or Line())
        reads = max(0, *(len(line.history) - 1 for line in lines))
        indices = sorted({j for line in lines for j, _ in line.noise})
        place, count = 1 + reads, len(indices)
        if place + count > MAX_HISTORY:
            raise ValueError(f"order: a row reads {place} outputs and {count} noises, at most {MAX_HISTORY} are kept")
        for history, xi in (("A", "xi_a"), ("B", "xi_b")):
            record[history][place : place + count] = record[xi][:count]
            record[xi] = 0.0
        output = OUTPUT in indices
        forget = tuple(sorted(row.forget, reverse=True))
        entries.append(Entry(reads, output, count - output, row.base_move, keeps, forget))
    records.flags.writeable = False
    return Table(records, tuple(entries), plan.depth)


def of_x0(row: Row, prediction: str) -> Row:
    """A row that only makes x0."""
    p_x, p_m = (row.p_x, row.p_m) if row.form == "data" else convert(prediction, "data", row.alpha, row.sigma)
    return replace(row, form="data", p_x=p_x, p_m=p_m, x=Line(x=1.0), base=None, forget=())


def reading_x0(row: Row) -> Row:
    """The row for a model that predicts x0."""
    p_x, p_m = convert("sample", row.form, row.alpha, row.sigma)
    return replace(row, p_x=p_x, p_m=p_m)


def drawing(row: Row, index: int = 1) -> Row:
    """The row with a noise, of weight 0 where it has none: diffusers draws it all the same."""
    return row if row.x.noise else replace(row, x=replace(row.x, noise=((index, 0.0),)))


def in_noise_level(row: Row, prediction: str) -> Row:
    """A row whose x is x0 + s eps, of a model that predicts for alpha x, alpha = (1 + s^2)^-1/2."""
    alpha = 1 / math.hypot(1.0, row.sigma)
    p_x, p_m = convert(prediction, row.form, alpha, row.sigma * alpha)
    return replace(row, p_x=p_x * alpha, p_m=p_m)


def preconditioned(row: Row, p_x: float, p_m: float) -> Row:
    """The row for a model whose x0 is p_x x + p_m m."""
    return replace(row, p_x=p_x, p_m=p_m)


def of_both(s: Points, t: Points, prediction: str, share: float = 1.0, noise: float = 0.0) -> Row:
    """alpha_t x0 + share sigma_t eps + noise sigma_t xi, where a bound on x0 leaves eps as the model predicted it."""
    q_x, q_m = convert(prediction, "noise", float(s.alpha), float(s.sigma))
    weight, spread = share * float(t.sigma), noise * float(t.sigma)
    extra = ((OUTPUT, weight * q_m), (1, spread)) if noise else ((OUTPUT, weight * q_m),)
    return Row.at(s, "data", prediction, Line(x=weight * q_x, history=(float(t.alpha),), noise=extra))


def one_noise(row: Row) -> Row:
    """The row with its independent noises as one of the same variance."""
    if len(row.x.noise) < 2:
        return row
    return replace(row, x=replace(row.x, noise=((1, math.hypot(*(weight for _, weight in row.x.noise))),)))

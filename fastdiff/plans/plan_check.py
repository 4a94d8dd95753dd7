"""What every plan must satisfy before anything runs, wherever it comes from. Errors name the row and the field."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .prediction import FORMS, PREDICTIONS
from .row import CALLS, MAX_UNCOND, LinearUpdate, Row, history_depth
from .schedule import KNOTS
from .table import MAX_HISTORY, MAX_NOISE


def check_rows(rows: Sequence[Row]) -> None:
    """Raises ValueError where a row is malformed, or reads outputs that no earlier row made or that are not kept."""
    if not rows:
        raise ValueError("plan: expected at least one row in rows")
    kept = 0  # outputs in the history while row i runs, its own included
    made = 0  # unconditional calls before row i
    for i, row in enumerate(rows):
        kept += 1
        _check_row(row, i, kept)
        kept -= len(row.drop_history)
        _check_uncond(row.uncond, i, made)
        made += not row.uncond
    if rows[0].call != "full":
        raise ValueError("plan: row 0 asks for a cheap call, but no full one comes before it")
    depth = history_depth(rows)
    if depth > MAX_HISTORY:
        raise ValueError(
            f"plan: by what the rows read of the history and drop from it, {depth} outputs are needed at once, at"
            f" most {MAX_HISTORY} are kept"
        )


def check_labels(
    prediction: object, end: Sequence[object], solver: object, grid: object, schedule: Sequence[Sequence[object]]
) -> None:
    """Raises ValueError where one of a plan's other fields is malformed."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"plan: expected a prediction of {', '.join(PREDICTIONS)}, got {prediction!r}")
    if len(end) != 2 or not all(map(_is_finite, end)):
        raise ValueError(f"plan: expected end to be (alpha, sigma), got {end}")
    if not isinstance(solver, str) or not isinstance(grid, str):
        raise ValueError(f"plan: expected names for solver and grid, got {solver!r}, {grid!r}")
    triples = all(len(knot) == 3 and all(map(_is_finite, knot)) for knot in schedule)
    if len(schedule) not in (0, KNOTS) or not triples:
        raise ValueError(f"plan: expected {KNOTS} knots (t, alpha, sigma) of its schedule, got {schedule}")


def _check_row(row: Row, i: int, kept: int) -> None:
    _check_line(row.x, f"row {i}", "x", kept)
    if row.base is not None:
        _check_line(row.base, f"row {i}", "base", kept)
    lines = [line for line in (row.x, row.base) if line is not None]
    numbers = [row.t, row.alpha, row.sigma, row.p_x, row.p_m, row.c_in]
    for line in lines:
        numbers += [line.base, line.x, *line.history, *(weight for _, weight in line.noise)]
    if not all(map(_is_finite, numbers)):
        raise ValueError(f"plan: row {i} holds a number that is not finite: {row}")
    drawn = {index for line in lines for index, _ in line.noise}
    if len(drawn) > MAX_NOISE or any(not isinstance(j, int) or not 0 <= j < 2**32 for j in drawn):
        raise ValueError(f"plan: row {i} draws noise {drawn}, expected at most {MAX_NOISE} numbers below 2^32")
    if row.call not in CALLS:
        raise ValueError(f"plan: row {i} has call {row.call!r}, expected one of {CALLS}")
    if row.form not in (*FORMS, "mixed"):
        raise ValueError(f"plan: row {i} has form {row.form!r}, expected one of {FORMS} or 'mixed'")
    if len(set(row.drop_history)) != len(row.drop_history) or any(k not in range(kept) for k in row.drop_history):
        raise ValueError(f"plan: row {i} forgets {row.drop_history}, expected places among {kept} outputs")


def _check_uncond(weights: object, i: int, made: int) -> None:
    """made: how many unconditional calls come before the row."""
    if not isinstance(weights, tuple) or not all(map(_is_finite, weights)):
        raise ValueError(f"plan: row {i} has uncond {weights!r}, expected a tuple of finite numbers")
    if len(weights) > min(made, MAX_UNCOND):
        raise ValueError(
            f"plan: row {i} has {len(weights)} weights in uncond, with {made} unconditional calls before it; at most"
            f" {MAX_UNCOND} are kept"
        )


def _check_line(line: object, where: str, name: str, kept: int) -> None:
    """kept: how many outputs there are, the row's own included."""
    if not isinstance(line, LinearUpdate):
        raise ValueError(f"plan: {where} has {name} = {line!r}, expected a LinearUpdate")
    drawn, read = [j for j, _ in line.noise], len(line.history)
    if len(set(drawn)) != len(drawn):
        raise ValueError(f"plan: {where} names the same noise twice in {name}.noise: {drawn}")
    if read > MAX_HISTORY:
        raise ValueError(f"plan: {where} reads {read} outputs in {name}.history, at most {MAX_HISTORY} are kept")
    if read > kept:
        raise ValueError(f"plan: {where} reads H_{read - 1} in {name}.history, which no earlier row has made")


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

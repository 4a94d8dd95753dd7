"""The rows of a plan as a pipeline runs them: from any of them on, and on a state that the model itself reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..plans.plan import Plan
from ..plans.prediction import convert
from ..plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate, Row

NOISE = 0.1  # alpha / sigma up to which x counts as pure noise


def rows_from(plan: Plan, begin: int) -> list[Row]:
    """The rows of a run that begins at row `begin`, from the point (alpha, sigma) of that row.

    Such a run has no outputs and no accepted state from before. Its first row is the exact step for constant D (DDIM),
    as in `fastdiff.plan(start=)`. So is every row up to the end of a step of several stages whose start lies before.
    After that an output from before the start counts as the oldest one there is, which keeps the sum of the weights.
    Nothing is kept yet that a cheap call could take, so the first call is a full one.
    """
    if begin == 0:
        return list(plan.rows)
    rows, kept = [], 0  # kept: outputs that this run has
    based = plan.rows[begin - 1].base is None  # whether the base is this run's own
    for i in range(begin, plan.nfe):
        row = plan.rows[i]
        kept += 1
        if i == begin or not based:
            line = constant_step(row, plan.prediction, plan.point_after(i))
            base = {"next": None, "keep": BASE_UNCHANGED if based else None}.get(row.base_move, BASE_FROM_X)
        else:
            line, base = (None if part is None else _without(part, kept) for part in (row.x, row.base))
        drop_history = tuple(k for k in row.drop_history if k < kept)
        call = "full" if i == begin else row.call
        rows.append(replace(row, x=line, base=base, drop_history=drop_history, call=call))
        kept -= len(drop_history)
        based = based or row.accepts
    return rows


def constant_step(row: Row, prediction: str, to: tuple[float, float]) -> LinearUpdate:
    """From the row's point to (alpha, sigma), exact where x0 and eps stay as they are: alpha' x0 + sigma' eps."""
    q_x, q_m = convert(prediction, "data", row.alpha, row.sigma)
    x0_d = q_m / row.p_m  # x0 = (q_x - x0_d p_x) x + x0_d D
    share = to[1] / row.sigma
    weight = to[0] - row.alpha * share
    return LinearUpdate(x=share + weight * (q_x - x0_d * row.p_x), history=(weight * x0_d,))


def _without(line: LinearUpdate, kept: int) -> LinearUpdate:
    history = line.history[:kept]
    if len(line.history) > kept:
        history = (*history[:-1], sum(line.history[kept - 1 :]))
    return replace(line, history=history)


def rescaled(rows: Sequence[Row], scales: Sequence[float]) -> list[Row]:
    """The rows for the state times scales[i] at row i and scales[-1] at the end."""
    made, of_base = [], scales[0]
    for row, here, there in zip(rows, scales[:-1], scales[1:], strict=True):
        line = _rescaled(row.x, of_base, here, there)
        base = _rescaled(row.base, of_base, here, 1.0) if row.base_move == "write" else row.base
        made.append(replace(row, p_x=row.p_x / here, c_in=row.c_in / here, x=line, base=base))
        of_base = {"next": there, "keep": of_base, "here": here}.get(row.base_move, 1.0)
    return made


def _rescaled(line: LinearUpdate, base: float, x: float, to: float) -> LinearUpdate:
    history = tuple(to * weight for weight in line.history)
    return LinearUpdate(line.base * to / base, line.x * to / x, history, line.noise)


def reading_noise(row: Row, prediction: str) -> Row:
    """The row for a model that read x, not c_in x, where x is next to pure noise.

    There x0 does not depend on x. So m, linear in eps and x0, moves with eps = (c_in x - alpha x0) / sigma alone.
    Raises ValueError where x is no pure noise.
    """
    if row.alpha > NOISE * row.sigma:
        raise ValueError(
            f"plan: at its first row the model has to read {row.c_in:.4g} x, and nothing has called scale_model_input;"
            " call it before the model, or set c_in of the plan's first row to 1"
        )
    data_x, data_m = convert(prediction, "data", row.alpha, row.sigma)
    return replace(row, p_x=row.p_x - row.p_m * (row.c_in - 1) * data_x / data_m, c_in=1.0)

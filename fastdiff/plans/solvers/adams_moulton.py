"""Adams-Bashforth-Moulton in the noise level: a multistep predictor and a corrector that costs no evaluation.

Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section III.1, on uneven levels and in PEC mode.
With z, s and d as in `adams`, dz/ds = d, and I_j(n; a, b) the integral from a to b of the j-th Lagrange polynomial on
n levels:

    corrector  z_s = z_r + sum_j I_j(q; r, s) d_j    over d at s, at r and before, once the model has seen s
    predictor  z_t = z_s + sum_j I_j(p; s, t) d_j    over d at s and before

Only the corrected states are added up. The output at a predicted point, wrong by h^(p+1), enters them with a factor of
h, so the order is the lesser of q and p + 1. As in UniPC, which does the same in lambda, the predicted point is x and
the corrected state is base.
"""

from __future__ import annotations

import numpy as np

from ..row import BASE_FROM_X, LinearUpdate, Row
from ..schedule import Points, Schedule
from .adams import adams_integrals, form_of, scale_of
from .ancestral import ddim_row


def adams_moulton(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int = 3,
    coordinate: str = "flow",
    lower_order_final: bool = True,
) -> list[Row]:
    """One row a step: a corrector of `order` and a predictor of one less.

    coordinate: "sigma" or "flow" (see `Schedule.coordinate`). lower_order_final: the step to sigma = 0 is of first
    order. Steps from alpha = 0 where the level is infinite are DDIM's, and history starts after them.
    """
    form = form_of(schedule, coordinate)
    levels = schedule.coordinate(points, coordinate)
    steps = len(levels) - 1
    finite = np.isfinite(levels)
    first = int(np.flatnonzero(finite)[0])  # before it there is nothing to interpolate
    rows: list[Row] = []
    for i in range(steps):
        s, t = points.at(i), points.at(i + 1)
        if not finite[i] or not finite[i + 1]:
            rows.append(ddim_row(s, t, prediction, i + 1))
            continue
        past = levels[first : i + 1][::-1]
        k_s, k_t = scale_of(s, form), scale_of(t, form)
        corrected = None
        if i > first and order > 1:
            weights = k_s * adams_integrals(past[:order], levels[i - 1], levels[i])
            corrected = LinearUpdate(base=k_s / scale_of(points.at(i - 1), form), history=tuple(weights.tolist()))
        to_clean = lower_order_final and levels[i + 1] == 0
        weights = k_t * adams_integrals(past[: 1 if to_clean else max(order - 1, 1)], levels[i], levels[i + 1])
        # The predictor starts from the corrected state, a line of this same row: substituted, one pass does both.
        line = LinearUpdate(x=k_t / k_s, history=tuple(weights.tolist()))
        line = line if corrected is None else line.substitute_x(corrected)
        uncorrected = order == 1 or i == steps - 1
        rows.append(Row.at(s, form, prediction, line, None if uncorrected else corrected or BASE_FROM_X))
    return rows

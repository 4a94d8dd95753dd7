"""Heun++ as Stable Diffusion web UIs have it under the name heunpp2: up to three evaluations a step.

From s to t, with u the level after t and s_0 the first one, slopes d = (x - D) / sigma:

    x_t = x_s + (t - s) (w_1 d(s) + w_2 d(t) + w_3 d(u)),   w_2 = t / (3 s_0),  w_3 = u / (3 s_0),  w_1 = 1 - w_2 - w_3

where t and u are reached by Euler's steps. The step before the last has no w_3 and w_2 = t / (2 s_0); the last one is
Euler's. The weights do not depend on the step's length, so the method is of first order.
"""

from __future__ import annotations

import math

from ..plans.row import BASE_UNCHANGED, LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from ..plans.solvers.ancestral import ddim_row
from ..plans.solvers.churn import Churn, churned


def heunpp(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> list[Row]:
    """The rows, for x = x0 + sigma eps and for rectified flows: both have dx/dsigma = (x - D) / sigma."""
    first, last = float(points.sigma[0]), float(points.sigma[-1])

    def step(i: int, s: Points, t: Points) -> list[Row]:
        if t.sigma == last:
            return [ddim_row(s, t, prediction, i + 1)]
        u = points.at(i + 2)
        if u.sigma == last:
            w = float(t.sigma) / (2 * first)
            return _rows([s, t], prediction, [1 - w, w])
        w_2, w_3 = (float(p.sigma) / (3 * first) for p in (t, u))
        return _rows([s, t, u], prediction, [1 - w_2 - w_3, w_2, w_3])

    return churned(schedule, points, step, Churn(s_churn, s_tmin, s_tmax, s_noise))


def _rows(stages: list[Points], prediction: str, weights: list[float]) -> list[Row]:
    """An evaluation at each stage, the later ones reached by Euler's steps; the step itself is to the second stage."""
    s, t, *_ = levels = [float(p.sigma) for p in stages]
    # Euler's step to t is x_t = (t / s) base + (1 - t / s) D_s.
    lines = [LinearUpdate(base=t / s, history=(1 - t / s,))]
    lines += [LinearUpdate(x=u / t, history=(1 - u / t,)) for u in levels[2:]]
    w_1, w_2, *later = (w * (t - s) for w in weights)
    if later:
        # x is at u; what x was at t follows from the base and D_s.
        (u,), (w_3,) = levels[2:], later
        history = (-w_3 / u, -w_2 / t, w_2 / t * (1 - t / s) - w_1 / s)
        lines.append(LinearUpdate(base=1 + (w_1 + w_2) / s, x=w_3 / u, history=history))
    else:
        lines.append(LinearUpdate(base=1 + w_1 / s, x=w_2 / t, history=(-w_2 / t, -w_1 / s)))
    bases = [BASE_UNCHANGED] * (len(lines) - 1) + [None]
    return [
        Row.at(point, "data", prediction, line, base) for point, line, base in zip(stages, lines, bases, strict=True)
    ]

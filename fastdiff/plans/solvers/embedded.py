"""Embedded pairs: the rows of one step whose last one gives the higher order as x and the lower one as base.

"dpm_12" and "dpm_23": DPM-Solver-12 and -23 (Lu et al. 2022, arXiv 2206.00927, appendix C), exponential in lambda.
"rk_45": the fourth- and fifth-order pair of Cash & Karp 1990 (ACM TOMS 16, 201) in the noise level, six evaluations.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points, Schedule
from .adams import form_of, scale_of
from .exponential import stage_lines

ORDERS = {"dpm_12": 2, "dpm_23": 3, "rk_45": 5}  # of the higher one

# The tableau of Cash & Karp: nodes, stages, weights of the fifth and of the fourth order. In each line the oldest
# slope comes first.
_NODES = (0, 1 / 5, 3 / 10, 3 / 5, 1, 7 / 8)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (3 / 10, -9 / 10, 6 / 5),
    (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
    (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
)
_HIGH = (37 / 378, 0, 250 / 621, 125 / 594, 0, 512 / 1771)
_LOW = (2825 / 27648, 0, 18575 / 48384, 13525 / 55296, 277 / 14336, 1 / 4)


def embedded_step(
    schedule: Schedule,
    s: Points,
    t: Points,
    prediction: str,
    pair: str,
    form: str = "noise",
    correction: str = "midpoint",
) -> list[Row]:
    """The rows from s to t, both finite in lambda. form, correction: of the exponential pairs (`singlestep`)."""
    if pair == "rk_45":
        return _runge_kutta(schedule, s, t, prediction)
    return _exponential(schedule, s, t, prediction, ORDERS[pair], form, correction)


def _exponential(
    schedule: Schedule, s: Points, t: Points, prediction: str, order: int, form: str, correction: str
) -> list[Row]:
    places = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}[order]
    stages = [s, *(schedule.at_log_snr(s.log_snr + r * (t.log_snr - s.log_snr)) for r in places)]
    lines = stage_lines(stages, t, form, order, correction, places[0], places[-1])
    if order == 2:
        to_end = stage_lines([s, t], t, form, 2, correction, 1.0, 1.0)[0]
    else:
        to_end = stage_lines(stages[:2], t, form, 2, correction, places[0], places[0])[-1]
    # It reads the outputs up to one stage before the last: one place further back in the last row's history.
    low = replace(to_end, history=(0.0, *to_end.history))
    bases = [BASE_UNCHANGED] * (order - 1) + [low]
    return [Row.at(point, form, prediction, line, base) for point, line, base in zip(stages, lines, bases, strict=True)]


def _runge_kutta(schedule: Schedule, s: Points, t: Points, prediction: str) -> list[Row]:
    # sigma / (alpha + sigma) is at most 1 and smooth where sigma / alpha grows without bound.
    coordinate = "sigma" if schedule.kind == "ve" else "flow"
    form = form_of(schedule, coordinate)
    first, last = (float(schedule.coordinate(p, coordinate)) for p in (s, t))
    h = last - first
    points = [s, *(t if c == 1 else schedule.at_coordinate(first + c * h, coordinate) for c in _NODES[1:])]

    def line(end: Points, weights: tuple[float, ...]) -> LinearUpdate:
        # z_end = z_s + h sum_j w_j d_j and x = k z; flipped, because the history is newest first.
        k = scale_of(end, form)
        return LinearUpdate(base=k / scale_of(s, form), history=tuple(float(k * h * w) for w in np.flip(weights)))

    lines = [*(line(p, weights) for p, weights in zip(points[1:], _STAGES, strict=True)), line(t, _HIGH)]
    bases = [BASE_UNCHANGED] * len(_STAGES) + [line(t, _LOW)]
    return [Row.at(p, form, prediction, x, base) for p, x, base in zip(points, lines, bases, strict=True)]

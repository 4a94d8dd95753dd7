"""Steps of length zero: grids of many steps round several of their times, or levels, to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points


def around_empty_steps(
    points: Points, prediction: str, make: Callable[[Points, list[int]], Sequence[Row]]
) -> list[Row]:
    """make(the points without repetitions, the steps that they begin), with a row that changes nothing in between for
    each step of length zero.

    A step between two equal points has no order and no ratio to its neighbours: the solver goes on as if it were not
    there, and its model output is not kept. The very last step stays: solvers lower their order by its number.
    """
    same = (points.alpha[1:] == points.alpha[:-1]) & (points.sigma[1:] == points.sigma[:-1])
    same[-1:] = False
    places = [int(i) for i in np.flatnonzero(~same)]
    if not same.any():
        return list(make(points, places))
    made = iter(make(points.at(np.array([*places, len(same)])), places))
    return [_empty(points.at(i), prediction) if same[i] else next(made) for i in range(len(same))]


def _empty(point: Points, prediction: str) -> Row:
    if float(point.alpha) == 0 and prediction in ("epsilon", "score"):  # tells no x0; nothing reads the output
        t, alpha, sigma = (float(v) for v in point)
        return Row(t, alpha, sigma, "noise", 0.0, 1.0, LinearUpdate(x=1.0), BASE_UNCHANGED, drop_history=(0,))
    return Row.at(point, "data", prediction, LinearUpdate(x=1.0), BASE_UNCHANGED, drop_history=(0,))

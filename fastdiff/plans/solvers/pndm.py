"""PNDM (Liu et al. 2022, arXiv 2202.09778): classical methods for eps, with DDIM's exact transfer between times.

The transfer phi (eq. 11) moves x from s to t as if eps were constant. A step takes a mixture of outputs as eps: the
fourth-order Runge-Kutta one (eq. 13, its middle halfway in time) for the first three steps, then the Adams-Bashforth
one of equal steps (eq. 12). PLMS starts with one improved Euler step instead, as Stable Diffusion does. Both are second
order: the transfer is Euler's step in sigma / alpha, in which equal steps of time are uneven.
"""

from __future__ import annotations

import numpy as np

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points, Schedule
from .adams import EQUAL_STEPS
from .ancestral import ddim_row
from .exponential import first_order

RUNGE_KUTTA_STEPS = 3
# The stages of a start multiply errors by the ratio of its noise levels: by 10^12 in all on the cosine schedule, which
# begins at sigma / alpha = 20,000. A step from so much noise is taken as one from alpha = 0.
LEAST_ALPHA = 1e-3


def pndm(schedule: Schedule, points: Points, prediction: str, *, runge_kutta: bool = True) -> list[Row]:
    """One evaluation a step after the start, which takes nine more (runge_kutta) or one more.

    A first step from alpha below 0.001 is DDIM's, before the start; a start never reaches sigma = 0 or alpha = 0.
    """
    count = len(points.t) - 1
    rows: list[Row] = []
    begin = int(float(points.alpha[0]) < LEAST_ALPHA)
    if begin:
        rows.append(ddim_row(points.at(0), points.at(1), prediction, 1))
    start = RUNGE_KUTTA_STEPS if runge_kutta else 1
    for i in range(begin, count):
        s, t = points.at(i), points.at(i + 1)
        # The inner points of a start need a finite lambda at both ends.
        if i - begin < start and float(t.sigma) > 0 and float(t.alpha) > 0:
            rows += (_runge_kutta if runge_kutta else _improved_euler)(schedule, s, t, prediction)
        else:
            # Each step of the start leaves one output in the history, its first, as a plain step does.
            known = i - begin + 1
            rows.append(Row.at(s, "noise", prediction, transfer(s, t, EQUAL_STEPS[min(known, 4) - 1])))
    return rows


def transfer(s: Points, t: Points, mixture: tuple[float, ...], base: bool = False) -> LinearUpdate:
    """x_t from x_s and eps = sum_k mixture_k H_k."""
    # Eq. 11 in noise form: alpha_t / alpha_s x_s + (sigma_t - sigma_s alpha_t / alpha_s) eps.
    x_weight, d_weight = first_order(s, t, "noise")
    history = tuple(d_weight * share for share in mixture)
    return LinearUpdate(base=x_weight, history=history) if base else LinearUpdate(x=x_weight, history=history)


def _improved_euler(schedule: Schedule, s: Points, t: Points, prediction: str) -> list[Row]:
    """To t with the slope at s, then again with the mean of both; the output at the first guess is forgotten."""
    guess = Row.at(s, "noise", prediction, transfer(s, t, (1.0,)), BASE_UNCHANGED)
    mean = Row.at(t, "noise", prediction, transfer(s, t, (0.5, 0.5), base=True), drop_history=(0,))
    return [guess, mean]


def _runge_kutta(schedule: Schedule, s: Points, t: Points, prediction: str) -> list[Row]:
    """Four evaluations, of which only the first is remembered."""
    # Every stage transfers x_s itself; the last one takes Simpson's mixture (1, 2, 2, 1) / 6 of the four outputs.
    middle = schedule.at(np.float64((s.t + t.t) / 2))
    return [
        Row.at(s, "noise", prediction, transfer(s, middle, (1.0,)), BASE_UNCHANGED),
        Row.at(middle, "noise", prediction, transfer(s, middle, (1.0,), base=True), BASE_UNCHANGED),
        Row.at(middle, "noise", prediction, transfer(s, t, (1.0,), base=True), BASE_UNCHANGED),
        Row.at(t, "noise", prediction, transfer(s, t, (1 / 6, 1 / 3, 1 / 3, 1 / 6), base=True), drop_history=(0, 1, 2)),
    ]

"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a multistep predictor and a corrector that costs no evaluation.

With m_0 the output at s and rho-weighted differences D_k = (m_k - m_0) / r_k, r_k = (l_{s_k} - l_s) / h (eq. 3 and 9):

    predictor  x_t = (w_t / w_s) x_s + u_t (psi_1 m_0 + b(h) sum_k a_k D_k)
    corrector  the same with one more difference, m_t - m_0 at r = 1, once the model has seen the predicted point

The coefficients solve R(r) a = b, rows sum_k r_k^(n-1) a_k = n! psi_{n+1}(h) / b(h) (eq. 5). B(h) is h for bh1 and
e^h - 1 for bh2 in the paper's sign; at order 2 (predictor) and 1 (corrector) a is 1/2, as in the authors' code. "vary"
(UniPC_v, appendix C) solves there too, and B(h) cancels.
The predicted point is x and the corrected state is base: the two registers of a plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..row import BASE_FROM_X, LinearUpdate, Row
from ..schedule import Points, Schedule
from .exponential import Interval, Side, first_order, is_finite, psi, step_orders


def unipc(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int = 2,
    variant: str = "bh2",
    form: str = "data",
    corrector: bool = True,
    uncorrected: Sequence[int] = (),
    lower_order_final: bool = True,
    max_ratio: float = math.inf,
) -> list[Row]:
    """One row a step. order 1 to 3; variant "bh1", "bh2" or "vary"; form "data" or "noise".

    corrector=False leaves UniP, uncorrected names the steps whose result alone is left as predicted.
    lower_order_final: the order falls to 1 over the last steps, however many there are (as in the authors' code).
    max_ratio: a step that is more than so many times as long in lambda as the one before is of first order.
    """
    if variant not in ("bh1", "bh2", "vary"):
        raise ValueError(f"variant: expected bh1, bh2 or vary, got {variant!r}")
    orders = step_orders(points, order, lower_order_final, math.inf, max_ratio)
    rows: list[Row] = []
    for i, p in enumerate(orders):
        s = points.at(i)
        here = "data" if float(s.alpha) == 0 else form  # eps says nothing about x0 at alpha = 0
        ratio, weights = predictor(points, i, p, here, variant)
        corrected = None
        if corrector and i > 0 and i - 1 not in uncorrected and is_finite(points.at(i - 1), s):
            corrected = corrected_line(points, i - 1, orders[i - 1], form, variant)
        # The predictor starts from the corrected state, a line of this same row: substituted, one pass does both.
        line = LinearUpdate(x=ratio, history=weights)
        if corrected is not None:
            line = line.substitute_x(corrected)
        rows.append(Row.at(s, here, prediction, line, _base(corrected, i, orders, points, corrector)))
    return rows


def _base(
    corrected: LinearUpdate | None, i: int, orders: list[int], points: Points, corrector: bool
) -> LinearUpdate | None:
    """Base is the corrected state where the next row corrects from it; otherwise the next x serves as both."""
    last = i == len(orders) - 1
    if last or not corrector or not is_finite(points.at(i), points.at(i + 1)):
        return None
    return corrected or BASE_FROM_X


def predictor(points: Points, i: int, order: int, form: str, variant: str) -> tuple[float, tuple[float, ...]]:
    """(weight of the corrected x_s, weights of H_0, H_1, ...) of UniP."""
    s, t = points.at(i), points.at(i + 1)
    if order == 1:
        ratio, weight = first_order(s, t, form)
        return ratio, (weight,)
    step = Interval.between(Side.of(s, form), Side.of(t, form))
    r = _places(points, i, order - 1)
    a = np.array([0.5]) if order == 2 and variant != "vary" else _solve(r, step.h, variant)
    return step.ratio, _weights(step, a / r, variant)


def corrected_line(points: Points, i: int, order: int, form: str, variant: str) -> LinearUpdate:
    """UniC for the step i -> i + 1, read at the next row: H_0 is the output at the predicted point."""
    s, t = points.at(i), points.at(i + 1)
    step = Interval.between(Side.of(s, form), Side.of(t, form))
    # One more condition than the predictor: the output at the step's end, r = 1.
    r = np.append(_places(points, i, order - 1), 1.0)
    a = np.array([0.5]) if order == 1 and variant != "vary" else _solve(r, step.h, variant)
    differences = a / r
    old = _weights(step, differences[:-1], variant)
    # The difference m_t - m_0 written out: its factor goes to H_0 and from H_1.
    new = float(step.u * _b(step.h, variant) * differences[-1])
    return LinearUpdate(base=step.ratio, history=(new, old[0] - new, *old[1:]))


def _weights(step: Interval, differences: np.ndarray, variant: str) -> tuple[float, ...]:
    """Weights of m_0 and of the outputs whose differences from m_0 carry the given factors."""
    # sum_k a_k (m_k - m_0) / r_k: every factor of an m_k is taken from m_0.
    others = step.u * _b(step.h, variant) * differences
    return (step.weight(1) - float(others.sum()), *(float(v) for v in others))


def _places(points: Points, i: int, count: int) -> np.ndarray:
    """r_k of the outputs before point i, nearest first: negative numbers."""
    # Reversed: t, s, and the points before s, nearest first.
    log_snr = points.at(slice(i - count, i + 2)).log_snr[::-1]
    return (log_snr[2:] - log_snr[1]) / (log_snr[0] - log_snr[1])


def _solve(r: np.ndarray, h: float, variant: str) -> np.ndarray:
    """The a_k of eq. 5 for as many conditions as there are places."""
    n = np.arange(1, len(r) + 1)
    # Vandermonde's system in r; at most three places, so nothing is lost in solving it.
    right = [math.factorial(k) * psi(k + 1, h) / _b(h, variant) for k in n]
    return np.linalg.solve(r[None, :] ** (n - 1)[:, None], np.array(right))


def _b(h: float, variant: str) -> float:
    """B(h) in the sign of l: h for bh1, 1 - e^-h for bh2."""
    return -math.expm1(-h) if variant == "bh2" else h

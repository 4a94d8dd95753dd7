"""DPM-Solver-v3 (Zheng et al. 2023, arXiv 2310.13268): the parameterisation that suits the model, from its statistics.

With f = (sigma eps - l x) / alpha the ODE is d(x / alpha)/d(lambda) = -l x / alpha - f (eq. 5), and f is taken to be
e^S times a polynomial in lambda (eq. 8), L and S the integrals of l(lambda) and s(lambda):

    x_t = alpha_t (e^(L_s - L_t) x_s / alpha_s - sum_k w_k f_k)
    w_k = integral from lambda_s to lambda_t of e^(L - L_t + S - S_k) L_k(lambda) d(lambda)

L_k the Lagrange polynomials over the latest outputs (predictor), or over those and the one at t (corrector, which keeps
f and moves x: base is the corrected state). l = 1, s = 0 is data prediction and l = 0, s = -1 noise prediction. Here l
and s are numbers for each lambda, where the paper has one for each component, and its offset b is 0: a row has no room
for either. Steps that are infinite in lambda are of first order; history does not reach across them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..prediction import convert
from ..row import BASE_FROM_X, LinearUpdate, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row
from .exponential import is_finite, usable_before
from .quadrature import gauss, lagrange, unit_panels


@dataclass(frozen=True)
class Statistics:
    """l and s at rising log_snr, linear in between, and constant beyond."""

    log_snr: np.ndarray
    l: np.ndarray  # noqa: E741
    s: np.ndarray

    def __post_init__(self) -> None:
        arrays = [np.asarray(v, dtype=np.float64) for v in (self.log_snr, self.l, self.s)]
        for name, values in zip(("log_snr", "l", "s"), arrays, strict=True):
            object.__setattr__(self, name, values)
            if values.ndim != 1 or values.shape != arrays[0].shape or not np.isfinite(values).all():
                raise ValueError(f"statistics: expected finite numbers, as many in {name} as in log_snr")
        if len(arrays[0]) == 0 or not np.all(np.diff(arrays[0]) > 0):
            raise ValueError("statistics: expected log_snr to rise")

    def __repr__(self) -> str:
        return f"<Statistics at {len(self.log_snr)} values of log_snr>"

    def integral(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The integral of l or s from the first log_snr to each of the places."""
        # Exact for a piecewise linear function: the whole pieces before, and the trapezium from the last knot on.
        # Outside the knots np.interp is constant, so the same expression goes on linearly, to the left with i = 0.
        knots = self.log_snr
        whole = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (values[1:] + values[:-1]) / 2)])
        i = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 1)
        return whole[i] + (at - knots[i]) * (values[i] + np.interp(at, knots, values)) / 2


DATA_PREDICTION = Statistics(np.zeros(1), np.ones(1), np.zeros(1))


def dpm_solver_v3(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    statistics: Statistics = DATA_PREDICTION,
    order: int = 3,
    corrector: bool = True,
    lower_order_final: bool = True,
    max_ratio: float = math.inf,
) -> list[Row]:
    """One row a step, order 1 to 3. statistics: of the model, from `fastdiff.estimate_statistics`.

    lower_order_final: the order falls to 1 over the last steps.
    max_ratio: a step that is more than so many times as long in lambda as the one before is of first order.
    """
    count = len(points.t) - 1
    rows: list[Row] = []
    used = 0  # outputs that the step before took, 0 where there is nothing to correct
    for i in range(count):
        s, t = points.at(i), points.at(i + 1)
        # The state at s again, now with the output at s as well. The predictor starts from it and not from x, the
        # point where the model was asked.
        corrected = _step(points, i - 1, used, statistics, ahead=True) if corrector and used > 1 else None
        if not is_finite(s, t):
            rows.append(ddim_row(s, t, prediction, i + 1))  # to sigma = 0 the state has no weight: nothing to correct
            used = 0
            continue
        used = min(order, usable_before(points, i, max_ratio) + 1, count - i if lower_order_final else order)
        line = _step(points, i, used, statistics)
        keeps = corrector and used > 1 and i + 1 < count
        x = line if corrected is None else line.substitute_x(corrected)
        rows.append(_row(s, prediction, statistics, x, (corrected or BASE_FROM_X) if keeps else None))
    return rows


def _step(points: Points, i: int, order: int, statistics: Statistics, ahead: bool = False) -> LinearUpdate:
    """From point i to i + 1 with `order` outputs, of which the newest is at i + 1 where it lies ahead."""
    first, last = float(points.log_snr[i]), float(points.log_snr[i + 1])
    places = points.log_snr[(i + 1 if ahead else i) - np.arange(order)]
    # l and s have kinks at their knots: a panel ends at each of them, so that all panels are smooth.
    edges = np.union1d(unit_panels(first, last), np.clip(statistics.log_snr, min(first, last), max(first, last)))
    at, element = gauss(edges if first < last else edges[::-1])

    def rise(values: np.ndarray, where: np.ndarray | float, since: float) -> np.ndarray:
        start, end = statistics.integral(values, np.array([since])), statistics.integral(values, np.atleast_1d(where))
        return end - start

    # Everything relative to the step's ends: L and S themselves may be large, their rises over a step are not.
    # e^(S_s - S_k) does not depend on lambda and is multiplied on afterwards.
    integrand = np.exp(rise(statistics.l, at, last) + rise(statistics.s, at, first)) * element
    weights = lagrange(places, at) @ integrand * np.exp(-rise(statistics.s, places, first))
    alpha = float(points.alpha[i + 1])
    ratio = alpha / float(points.alpha[i]) * float(np.exp(-rise(statistics.l, last, first))[0])
    history = tuple((-alpha * weights).tolist())
    return LinearUpdate(base=ratio, history=history) if ahead else LinearUpdate(x=ratio, history=history)


def _row(s: Points, prediction: str, statistics: Statistics, x: LinearUpdate, base: LinearUpdate | None) -> Row:
    """D = f = (sigma eps - l x) / alpha."""
    t, alpha, sigma = (float(v) for v in s)
    noise_x, noise_m = convert(prediction, "noise", alpha, sigma)
    l = float(np.interp(s.log_snr, statistics.log_snr, statistics.l))  # noqa: E741
    return Row(t, alpha, sigma, "mixed", (sigma * noise_x - l) / alpha, sigma * noise_m / alpha, x, base)

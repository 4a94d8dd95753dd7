"""SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams methods, predictor and corrector.

For the reverse SDE with noise level tau(t), constant over a step, data form (eq. 14 and 17):

    x_t = (sigma_t / sigma_s) e^(-tau^2 h) x_s + sum_j b_j D_j + sigma_t sqrt(1 - e^(-2 tau^2 h)) xi
    b_j = alpha_t (1 + tau^2) integral of e^(-(1 + tau^2) (lambda_t - lambda)) L_j(lambda) from lambda_s to lambda_t

over the outputs so far (predictor), or with the one at the predicted point too (corrector), with the same xi. In noise
form

    x_t = (alpha_t / alpha_s) x_s + sum_j b_j D_j + tau sigma_t sqrt(e^(2h) - 1) xi
    b_j = -alpha_t (1 + tau^2) integral of e^(-lambda) L_j(lambda) from lambda_s to lambda_t

The corrected state is base. In PECE mode the model is asked again at the corrected state, and the output at the
predicted one is forgotten.
Steps that are infinite in lambda are of first order, exact in the limit; history does not reach across them.

The authors' code gives two outputs simpler weights, the difference (1 + tau^2) h / 2 (appendix D). Those are the first
term of the integral in h and grow without bound where it does not: on Gaussian data 5 to 20 such steps leave 2 to 100
times the data's standard deviation. So here they are an option, and the integral is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..row import BASE_FROM_X, LinearUpdate, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row
from .exponential import is_finite, usable_before
from .quadrature import gauss, lagrange, unit_panels

Tau = float | Callable[[float], float]


class _Step(NamedTuple):
    """x_t = ratio x_s + sum weights_j D_j (newest first) + spread xi."""

    ratio: float
    weights: np.ndarray
    spread: float


def sa_solver(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    predictor_order: int = 2,
    corrector_order: int = 2,
    tau: Tau = 1.0,
    form: str = "data",
    pece: bool = False,
    simple: bool = False,
    s_noise: float = 1.0,
    lower_order_final: bool = True,
    max_ratio: float = math.inf,
) -> list[Row]:
    """One row a step; in pece mode two, the first step and one after a step that is infinite in lambda excepted.

    predictor_order, corrector_order: how many outputs they use, 1 to 4; corrector_order=0 leaves it out. tau: the noise
    level, 0 the ODE and 1 the reverse SDE, a number or a function of the time at which a step begins (the authors leave
    noise out at both ends: 1 for sigma / alpha from 0.05 to 1, else 0). form: what is integrated, "data" or "noise".
    simple: the authors' weights of two outputs, which they have in data form.
    lower_order_final: the orders fall over the last steps. max_ratio: a step that is more than so many times as long in
    lambda as the one before is predicted from one output.
    """
    for name, value, low in (("predictor_order", predictor_order, 1), ("corrector_order", corrector_order, 0)):
        if value not in range(low, 5):
            raise ValueError(f"{name}: expected a whole number from {low} to 4, got {value!r}")
    count = len(points.t) - 1
    left = [count - i if lower_order_final else count for i in range(count)]
    most = [(min(predictor_order, n), min(corrector_order, n + 2)) for n in left]
    taus = [_tau(tau, points.at(i)) for i in range(count)]
    return sa_rows(
        points, prediction, most, taus, pece=pece, simple=simple, s_noise=s_noise, max_ratio=max_ratio, form=form
    )


def sa_rows(
    points: Points,
    prediction: str,
    most: Sequence[tuple[int, int]],
    taus: Sequence[float],
    *,
    pece: bool,
    simple: bool,
    s_noise: float,
    max_ratio: float = math.inf,
    form: str = "data",
) -> list[Row]:
    """The rows for given orders and noise levels.

    most: at each row, how many outputs the predictor of its step and the corrector of the step before use at most.
    taus: the noise level of each step.
    """
    rows: list[Row] = []
    corrects = False  # whether the step before has a finite length, so that a corrector can repeat it
    for i, ((predictor, corrector), tau) in enumerate(zip(most, taus, strict=True)):
        s, t = points.at(i), points.at(i + 1)
        corrected = None
        if corrects and corrector:
            # The step before once more, now with the output at its end; with its tau and its noise, which the
            # counter-based generator simply draws again.
            order = min(corrector, usable_before(points, i - 1, max_ratio) + 2)
            step = _step(points, i - 1, order, taus[i - 1], form, simple, ahead=True)
            noise = ((i, s_noise * step.spread),) if s_noise * step.spread else ()
            corrected = LinearUpdate(base=step.ratio, history=tuple(step.weights.tolist()), noise=noise)
        # PECE: x becomes the corrected state, and the output at the predicted one is dropped.
        if pece and corrected is not None:
            rows.append(Row.at(s, form, prediction, corrected, drop_history=(0,)))
            corrected = None
        corrects = is_finite(s, t)
        if not corrects:
            rows.append(ddim_row(s, t, prediction, i + 1, float(tau > 0), s_noise))
            continue
        step = _step(points, i, min(predictor, usable_before(points, i, max_ratio) + 1), tau, form, simple)
        noise = ((i + 1, s_noise * step.spread),) if s_noise * step.spread else ()
        line = LinearUpdate(x=step.ratio, history=tuple(step.weights.tolist()), noise=noise)
        # The next row corrects from base: the corrected state, or x where nothing was corrected.
        keeps = i + 1 < len(taus) and most[i + 1][1]
        line = line if corrected is None else line.substitute_x(corrected)
        rows.append(Row.at(s, form, prediction, line, (corrected or BASE_FROM_X) if keeps else None))
    return rows


def _tau(tau: Tau, s: Points) -> float:
    value = float(tau(float(s.t)) if callable(tau) else tau)
    if not 0 <= value < math.inf:
        raise ValueError(f"tau: expected a number >= 0, got {value}")
    return value


def _step(points: Points, i: int, order: int, tau: float, form: str, simple: bool, ahead: bool = False) -> _Step:
    """The step from point i to i + 1 with `order` outputs, of which the newest is at i + 1 where it lies ahead."""
    log_snr = points.log_snr
    first, last = float(log_snr[i]), float(log_snr[i + 1])
    h, rate = last - first, 1 + tau**2
    alpha, sigma = float(points.alpha[i + 1]), float(points.sigma[i + 1])
    newest = i + 1 if ahead else i
    places = log_snr[newest - np.arange(order)]
    if form == "noise":
        at, element = gauss(unit_panels(first, last))
        # e^-lambda over alpha_t's own: sigma_t = alpha_t e^-lambda_t, and the exponents stay small.
        weights = lagrange(places, at) @ (-sigma * rate * np.exp(last - at) * element)
        return _Step(alpha / float(points.alpha[i]), weights, tau * sigma * math.sqrt(math.expm1(2 * h)))
    if simple and order == 2:
        # The difference of two outputs by the first term of its integral in h, from appendix D.
        share = alpha * rate * h / 2 * (1.0 if ahead else h / (places[1] - places[0]))
        whole = -alpha * math.expm1(-rate * h)
        weights = np.array([share, whole - share] if ahead else [whole - share, share])
    else:
        # The kernel e^(-rate (last - lambda)) decays rate times as fast as lambda runs: panels shorter by that much.
        at, element = gauss(unit_panels(first, last, rate))
        weights = lagrange(places, at) @ (alpha * rate * np.exp(-rate * (last - at)) * element)
    ratio = sigma / float(points.sigma[i]) * math.exp(-(tau**2) * h)
    # expm1: the noise's variance of a short step, or of a small tau, without cancellation.
    return _Step(ratio, weights, sigma * math.sqrt(-math.expm1(-2 * tau**2 * h)))

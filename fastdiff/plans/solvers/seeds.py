"""SEEDS-2 and SEEDS-3 (Gonzalez et al. 2023, arXiv 2305.14267): DPM-Solver++'s singlestep methods for the reverse SDE.

For noise level eta, H = (1 + eta) h and c_k H into the step, with the stages' outputs D_k (data form; algorithms 3, 4):

    x_k = (sigma_k / sigma_s) e^(-eta c_k h) x_s + alpha_k sum_j a_kj D_j + sigma_k n_k

n_k is one path of the Ornstein-Uhlenbeck noise, so the next stage is reached from the last one with one fresh noise:
the rows hold x_k+1 - f x_k, f the factor from k to k + 1, in which both x_s and the earlier noises cancel.
"""

from __future__ import annotations

import math

import numpy as np

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row
from .exponential import is_finite, psi


def seeds(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int = 2,
    eta: float = 1.0,
    s_noise: float = 1.0,
    correction: str = "midpoint",
    r1: float | None = None,
    r2: float = 2 / 3,
) -> list[Row]:
    """`order` evaluations a step, 2 or 3; one where the step is infinite in lambda.

    correction: for order 2, "midpoint" or "heun" (phi_2). r1, r2: where the stages lie, 1/2, or 1/3 and 2/3.
    """
    if order == 1:
        raise ValueError("order: expected 2 or 3, got 1; euler_ancestral is of order 1")
    r1 = r1 if r1 is not None else (0.5 if order == 2 else 1 / 3)
    places = [0.0, r1, 1.0] if order == 2 else [0.0, r1, r2, 1.0]
    rows: list[Row] = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        if not is_finite(s, t):
            rows.append(ddim_row(s, t, prediction, order * i + 1, float(eta > 0), s_noise))
            continue
        h = float(t.log_snr - s.log_snr)
        stages = [s, *(schedule.at_log_snr(s.log_snr + c * h) for c in places[1:-1]), t]
        weights = _weights((1 + eta) * h, order, correction, r1, r2)
        for k in range(order):
            now, after = stages[k], stages[k + 1]
            step = (places[k + 1] - places[k]) * h
            # From stage k, which is x, and not from x_s: what stage k holds of the outputs is in x already, so only
            # the difference of the two stages' weights is added here.
            factor = float(after.sigma / now.sigma) * math.exp(-eta * step)
            history = float(after.alpha) * weights[k + 1] - factor * float(now.alpha) * weights[k]
            # sqrt(1 - e^(-2 eta step)) by expm1, as the noise of a short step is small.
            spread = s_noise * float(after.sigma) * math.sqrt(-math.expm1(-2 * eta * step))
            noise = ((order * i + k + 1, spread),) if spread else ()
            line = LinearUpdate(x=factor, history=tuple(float(w) for w in history[k::-1]), noise=noise)
            rows.append(Row.at(now, "data", prediction, line, BASE_UNCHANGED if k + 1 < order else None))
    return rows


def _weights(h: float, order: int, correction: str, r1: float, r2: float) -> list[np.ndarray]:
    """a_kj of the start (none), of the stages and of the end, over D_1, D_2, D_3."""
    none, first = np.zeros(3), np.array([psi(1, r1 * h), 0.0, 0.0])
    # Data form: psi_1 of D_1 is what a constant D gives, psi_2 the weight of its slope (algorithms 3 and 4).
    whole = psi(1, h)
    if order == 2:
        share = (whole / 2 if correction == "midpoint" else psi(2, h)) / r1
        return [none, first, np.array([whole - share, share, 0.0])]
    share = r2 / r1 * psi(2, r2 * h)
    second = np.array([psi(1, r2 * h) - share, share, 0.0])
    share = psi(2, h) / r2
    return [none, first, second, np.array([whole - share, 0.0, share])]

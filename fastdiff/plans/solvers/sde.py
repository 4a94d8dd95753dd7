"""dpmpp_sde and dpmpp_2s_ancestral: k-diffusion's stochastic solvers of two evaluations (after arXiv 2211.01095).

dpmpp_2s_ancestral is DPM-Solver++ 2S down to sigma_down, then noise. In dpmpp_sde each step goes to the middle in
lambda and then all the way, both as ancestral steps. In k-diffusion's noise level sigma / alpha, ancestral means: solve
down to sigma_down, add noise sigma_up. The two noises are increments of one Brownian path over the noise level: with w
the middle's share of the interval, xi_whole = sqrt(w) xi_1 + sqrt(1-w) xi_2.
"""

from __future__ import annotations

import math

from ..row import BASE_UNCHANGED, LinearUpdate, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row, step_down
from .exponential import first_order, is_finite


def dpmpp_sde(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> list[Row]:
    """Two evaluations a step, the first and last one where the interval is infinite in lambda."""
    rows: list[Row] = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        index = 2 * i + 1
        if not is_finite(s, t):
            rows.append(ddim_row(s, t, prediction, index, eta, s_noise))
            continue
        middle = schedule.at_log_snr(s.log_snr + r * (t.log_snr - s.log_snr))
        level_s, level_m, level_t = (float(p.sigma / p.alpha) for p in (s, middle, t))
        # The middle's share of the Brownian path, which k-diffusion runs over sigma / alpha.
        share = (level_s - level_m) / (level_s - level_t)
        x_m, d_m, up_m = _ancestral(s, middle, eta, s_noise)
        x_t, d_t, up_t = _ancestral(s, t, eta, s_noise)
        # Both lines start from the base. The path's increment over the whole step is made of those of its two parts.
        first = LinearUpdate(base=x_m, history=(d_m,), noise=((index, up_m),) if up_m else ())
        whole = ((index, up_t * math.sqrt(share)), (index + 1, up_t * math.sqrt(1 - share))) if up_t else ()
        # (1 - 1/2r) D_s + 1/2r D_m: with r = 1/2 the output at the middle alone.
        late = 1 / (2 * r)
        second = LinearUpdate(base=x_t, history=(d_t * late, d_t * (1 - late)), noise=whole)
        rows += [Row.at(s, "data", prediction, first, BASE_UNCHANGED), Row.at(middle, "data", prediction, second)]
    return rows


def dpmpp_2s_ancestral(
    schedule: Schedule, points: Points, prediction: str, *, eta: float = 1.0, s_noise: float = 1.0
) -> list[Row]:
    """Two evaluations a step, one where the interval down is infinite in lambda."""
    rows: list[Row] = []
    most = schedule.log_snr(schedule.t_min)
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        share, up = step_down(s, t, eta)
        # Solve down to less noise than t has; fresh noise fills it up to sigma_t.
        down = t._replace(sigma=t.sigma * share)
        if not is_finite(s, down):
            rows.append(ddim_row(s, t, prediction, i + 1, eta, s_noise))
            continue
        # With eta > 1 it would lie below t; with eta = 1 it is t.
        middle = schedule.at_log_snr(min((s.log_snr + down.log_snr) / 2, max(most, t.log_snr)))
        noise = ((i + 1, s_noise * up * float(t.sigma)),) if up else ()
        (x_m, d_m), (x_t, d_t) = (first_order(s, p, "data") for p in (middle, down))
        first, second = LinearUpdate(base=x_m, history=(d_m,)), LinearUpdate(base=x_t, history=(d_t,), noise=noise)
        rows += [Row.at(s, "data", prediction, first, BASE_UNCHANGED), Row.at(middle, "data", prediction, second)]
    return rows


def _ancestral(s: Points, t: Points, eta: float, s_noise: float) -> tuple[float, float, float]:
    """(weight of x, of D, of fresh noise): the exact step for constant D to sigma_down, and sigma_up."""
    down, up = step_down(s, t, eta)
    # Constant D: sigma_down / sigma_s of x stays, and D gets what that leaves missing of alpha_t x0.
    x_weight = float(t.sigma) * down / float(s.sigma)
    return x_weight, float(t.alpha) - float(s.alpha) * x_weight, s_noise * up * float(t.sigma)

"""dpmpp_sde: the two-evaluation SDE solver of k-diffusion (after DPM-Solver++, arXiv 2211.01095).

Each step goes to the middle in lambda and then all the way, both as ancestral steps. In k-diffusion's noise level
sigma / alpha, ancestral means: solve down to sigma_down, add noise sigma_up. The two noises are increments of one
Brownian path over the noise level: with w the middle's share of the interval, xi_whole = sqrt(w) xi_1 + sqrt(1-w) xi_2.
"""

from __future__ import annotations

import math

from ..plan import KEEP, Line, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row, step_down
from .exponential import is_finite


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
        share = (level_s - level_m) / (level_s - level_t)
        x_m, d_m, up_m = _ancestral(s, middle, eta, s_noise)
        x_t, d_t, up_t = _ancestral(s, t, eta, s_noise)
        first = Line(base=x_m, history=(d_m,), noise=((index, up_m),) if up_m else ())
        whole = ((index, up_t * math.sqrt(share)), (index + 1, up_t * math.sqrt(1 - share))) if up_t else ()
        late = 1 / (2 * r)
        second = Line(base=x_t, history=(d_t * late, d_t * (1 - late)), noise=whole)
        rows += [Row.at(s, "data", prediction, first, KEEP), Row.at(middle, "data", prediction, second)]
    return rows


def _ancestral(s: Points, t: Points, eta: float, s_noise: float) -> tuple[float, float, float]:
    """(weight of x, of D, of fresh noise): the exact step for constant D to sigma_down, and sigma_up."""
    down, up = step_down(s, t, eta)
    x_weight = float(t.sigma) * down / float(s.sigma)
    return x_weight, float(t.alpha) - float(s.alpha) * x_weight, s_noise * up * float(t.sigma)

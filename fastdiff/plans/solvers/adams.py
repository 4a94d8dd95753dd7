"""Linear multistep in the noise level: LMS, iPNDM, iPNDM_v and gradient estimation are one method but for the weights.

LMS (k-diffusion's sample_lms), iPNDM (Zhang & Chen 2023, arXiv 2204.13902, after Liu et al. 2022, arXiv 2202.09778,
eq. 9 and 12), iPNDM_v (Zhou et al. 2024, arXiv 2312.00094, appendix), gradient estimation (Permenter & Yuan 2024,
arXiv 2306.04848, algorithm 2). With the noise level s and z = x / k of `Schedule.coordinate` the ODE is dz/ds = d,
where d = (z - x0) / s is eps for s = sigma / alpha (k = alpha) and the velocity eps - x0 for
s = sigma / (alpha + sigma) (k = alpha + sigma). A step is

    x_t = k_t (x_s / k_s + sum_j w_j d_j),    w_j = integral of the j-th Lagrange polynomial in s, from s to t

over the latest outputs (any steps), or t - s times the classical weights of equal steps (iPNDM). In s = sigma / alpha
a step from or to alpha = 0 is infinite: it is DDIM's, which is exact in the limit, and history starts after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..row import LinearUpdate, Row
from ..schedule import Points, Schedule
from .ancestral import ddim_row
from .quadrature import lagrange

# Adams-Bashforth on equal steps, orders 1 to 4, newest output first: what the integrals of `adams_weights` over
# t - s come to there.
EQUAL_STEPS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def adams(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int = 4,
    coordinate: str | None = None,
    equal_steps: bool = False,
    lower_order_final: bool = True,
) -> list[Row]:
    """One row a step, the first ones of lower order.

    coordinate: "sigma" or "flow" (see `Schedule.coordinate`), the schedule's own where not given. equal_steps: the
    weights of equal steps whatever the grid, which are second order on smooth grids. lower_order_final: the step to
    sigma = 0 is of first order.
    """

    def weights(past: np.ndarray, end: float) -> np.ndarray:
        # The first steps have fewer outputs and so a lower order. With one output a step to s = 0 ends on D itself,
        # which no extrapolation from noisier levels improves.
        past = past[: 1 if lower_order_final and end == 0 else order]
        return (end - past[0]) * np.array(EQUAL_STEPS[len(past) - 1]) if equal_steps else adams_weights(past, end)

    return _multistep(schedule, points, prediction, coordinate, weights)


def gradient_estimation(
    schedule: Schedule, points: Points, prediction: str, *, gamma: float = 2.0, coordinate: str | None = None
) -> list[Row]:
    """Euler's step along gamma d_0 + (1 - gamma) d_1, the step to sigma = 0 along d_0; gamma = 3/2 would be iPNDM's."""

    def weights(past: np.ndarray, end: float) -> np.ndarray:
        # Algorithm 2; to s = 0 along d_0 alone, which ends on D itself.
        mixture = [1.0] if end == 0 or len(past) == 1 else [gamma, 1 - gamma]
        return (end - past[0]) * np.array(mixture)

    return _multistep(schedule, points, prediction, coordinate, weights)


def _multistep(
    schedule: Schedule,
    points: Points,
    prediction: str,
    coordinate: str | None,
    weights: Callable[[np.ndarray, float], np.ndarray],
) -> list[Row]:
    """Rows with weights(levels of the outputs so far, newest first, level to reach)."""
    form = form_of(schedule, coordinate)
    levels = schedule.coordinate(points, coordinate)
    rows: list[Row] = []
    for i in range(len(points.t) - 1):
        s, t = points.at(i), points.at(i + 1)
        # s is infinite where alpha = 0. There and from there DDIM's step is the limit of Euler's.
        if math.isinf(levels[i]) or math.isinf(levels[i + 1]):
            rows.append(ddim_row(s, t, prediction, i + 1))
            continue
        # Newest first, as the history is; no polynomial passes through an infinite level.
        past = levels[: i + 1][np.isfinite(levels[: i + 1])][::-1]
        rows.append(Row.at(s, form, prediction, step_line(s, t, form, weights(past, float(levels[i + 1])))))
    return rows


def form_of(schedule: Schedule, coordinate: str | None) -> str:
    """The form of d in a noise level: eps in "sigma", the velocity in "flow"."""
    own = "flow" if schedule.kind == "flow" else "sigma"
    return "flow" if (coordinate or own) == "flow" else "noise"


def scale_of(point: Points, form: str) -> float:
    """k, which x is divided by: alpha, or alpha + sigma in flow form."""
    return float(point.alpha + point.sigma if form == "flow" else point.alpha)


def step_line(s: Points, t: Points, form: str, weights: np.ndarray) -> LinearUpdate:
    """x_t from x_s and the outputs, newest first."""
    # x = k z: the step in z keeps z_s with weight 1, so x_s gets k_t / k_s and every output k_t.
    k_s, k_t = scale_of(s, form), scale_of(t, form)
    return LinearUpdate(x=k_t / k_s, history=tuple(float(k_t * w) for w in weights))


def adams_weights(levels: np.ndarray, end: float) -> np.ndarray:
    """Integrals of the Lagrange polynomials on the levels, newest first, from the newest level to the end."""
    return adams_integrals(levels, float(levels[0]), end)


def adams_integrals(levels: np.ndarray, begin: float, end: float) -> np.ndarray:
    """The same from any level to any other.

    Gauss-Legendre with as many nodes as a polynomial of that degree asks for: exact to rounding.
    """
    # n nodes are exact up to degree 2 n - 1, and the polynomials have degree len(levels) - 1.
    nodes, weights = np.polynomial.legendre.leggauss(len(levels) // 2 + 1)
    half = (end - begin) / 2
    return half * (lagrange(levels, begin + half * (nodes + 1)) @ weights)

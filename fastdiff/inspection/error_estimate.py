"""How far a step is from the solution that it stands for, estimated from outputs that the run makes anyway.

With u = alpha / sigma the probability flow ODE says d(x / sigma) = D du, D being the x0 predicted at each place of the
path, so that from s to t

    x_t = (sigma_t / sigma_s) x_s + sigma_t int D du

The step took D at its own evaluations. The model's next evaluation, at the state that the step arrived at, gives D
there too: the reference takes D as the polynomial, in tau = sigma / (alpha + sigma), through that and those where the
latest steps began, one place more than the step read, four at most. (Stages inside a step are less exact.) It is the
next higher order, as a corrector has it (Milne's device), so its distance from the step estimates the step's local
error, exactly so where D is such a polynomial.

Where the step draws noise, x_s keeps a smaller share a, and D has the weights of the reverse SDE with this a: dv for
v = alpha_t (u / u_t)^p, with p such that v = a alpha_s at s. The noise is the step's own.
"""

from __future__ import annotations

import math

import numpy as np

from ..plans.plan import Plan
from ..plans.solvers.quadrature import gauss, lagrange, unit_panels
from .measures import flow_time
from .step_forms import Form, StepForm, added, step_forms

MOST_PLACES = 4
SAME_PLACE = 1e-9  # difference of two tau below which D is one place's


def error_forms(plan: Plan) -> dict[int, Form]:
    """Of the last row of each step, the reference less the step, as a sum of what the step has read and the next x0.

    Steps without one are left out: the last, those that jump up in noise or take nothing of x, and those from or to
    where there is no noise or whose x0 is undetermined.
    """
    tau = [flow_time(row.alpha, row.sigma) for row in plan.rows]
    found, begins = {}, []
    for step in step_forms(plan):
        begins.append(step.first)
        form = _error_form(step, tau, begins) if step.last + 1 < plan.nfe else None
        if form is not None and not any(name == "unknown" for name, _ in form):
            found[step.last] = form
    return found


def _error_form(step: StepForm, tau: list[float], begins: list[int]) -> Form | None:
    (alpha_s, sigma_s), (alpha_t, sigma_t) = step.s, step.t
    if not (sigma_s and sigma_t and alpha_t):
        return None
    share, power = sigma_t / sigma_s, 1.0
    if step.noisy:
        largest = max(step.start, key=lambda symbol: abs(step.start[symbol]))
        share = step.end.get(largest, 0.0) / step.start[largest]
        power = _power(share, step) if alpha_s else 1.0
    if not (share > 0 and 0 < power < math.inf):
        return None
    places = _places(step, tau, begins)
    weights = _weights(step, power, np.array([tau[k] for k in places]))
    reference = {("x0", k): float(w) for k, w in zip(places, weights, strict=True)}
    return added([(share, step.start), (1.0, reference), (-1.0, step.end)])


def _power(share: float, step: StepForm) -> float:
    """p of (u_s / u_t)^p = a alpha_s / alpha_t; NaN where there is none."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = step.s, step.t
    ratio = alpha_s * sigma_t / (sigma_s * alpha_t)
    if share <= 0 or ratio == 1:
        return math.nan
    return math.log(share * alpha_s / alpha_t) / math.log(ratio)


def _places(step: StepForm, tau: list[float], begins: list[int]) -> list[int]:
    """The rows whose x0 the reference takes, newest first, each at a tau of its own, none from before a jump."""
    read = {round(tau[k] / SAME_PLACE) for name, k in step.end if name == "x0"}
    chosen = [step.last + 1]
    direction = tau[step.first] - tau[step.last + 1]
    for k in reversed(begins):
        further = (tau[k] - tau[chosen[-1]]) * math.copysign(1.0, direction)
        if len(chosen) > len(read) or len(chosen) == MOST_PLACES or further < -SAME_PLACE:
            break
        if further > SAME_PLACE:
            chosen.append(k)
    return chosen


def _weights(step: StepForm, power: float, places: np.ndarray) -> np.ndarray:
    """int L_k dv for the Lagrange polynomials L_k of the places, in y = -log tau, where u = e^y - 1."""
    first, last = (-math.log(flow_time(*level)) for level in (step.s, step.t))
    y, dy = gauss(unit_panels(first, last, rate=1 + power))
    u, u_t = np.expm1(y), step.t[0] / step.t[1]
    density = power * step.t[0] / u_t * (u / u_t) ** (power - 1) * np.exp(y)
    return lagrange(places, np.exp(-y)) @ (density * dy)

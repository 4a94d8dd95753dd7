"""DEIS (Zhang & Chen 2023, arXiv 2204.13902): the latest noise predictions as a polynomial, integrated exactly.

With rho = sigma / alpha the ODE is d(x / alpha) = eps d(rho), and a step (eq. 14 and 15) is

    x_t = alpha_t (x_s / alpha_s + sum_j w_j eps_j),    w_j = integral of L_j(tau(rho)) d(rho) from rho_s to rho_t

with the Lagrange polynomials L_j in tau: the time (tAB), rho (rhoAB), or log rho = -lambda (diffusers' "logrho").
The integral is taken over lambda, d(rho) = -e^(-lambda) d(lambda), by Gauss-Legendre with 16 nodes a unit of lambda,
and on discrete schedules a panel for each training index, where lambda(t) has kinks: nothing but rounding is left.
Steps that are infinite in lambda are of first order; in rho the step to sigma = 0 is finite and keeps its order.
"""

from __future__ import annotations

import math

import numpy as np

from ..row import LinearUpdate, Row
from ..schedule import Points, Schedule
from .adams import adams_weights, step_line
from .exponential import finite_before, first_order, is_finite, step_orders
from .quadrature import gauss, lagrange, unit_panels

VARIABLES = ("time", "rho", "log_rho")


def deis(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    variable: str = "time",
    order: int = 3,
    lower_order_final: bool = False,
) -> list[Row]:
    """One row a step, order 1 to 4 (the polynomial has degree order - 1), the first ones of lower order.

    variable: what eps is a polynomial of: "time", "rho" or "log_rho". lower_order_final: the order falls to 1 over the
    last steps of runs of fewer than 15.
    """
    if variable not in VARIABLES:
        raise ValueError(f"variable: expected one of {', '.join(VARIABLES)}, got {variable!r}")
    orders = step_orders(points, order, lower_order_final)
    rows = []
    for i, p in enumerate(orders):
        s, t = points.at(i), points.at(i + 1)
        # rho runs over the finite interval to 0 on the way to clean data, lambda over an infinite one.
        clean_end = variable == "rho" and float(t.sigma) == 0 and float(s.alpha) > 0
        if clean_end or is_finite(s, t):
            # step_orders counts in lambda and gives the step to sigma = 0 order 1; in rho it may keep its order.
            used = min(order, 1 + finite_before(points, i)) if clean_end else p
            past = points.at(slice(i + 1 - used, i + 1))
            weights = _weights(schedule, Points(*(v[::-1] for v in past)), t, variable)
            rows.append(Row.at(s, "noise", prediction, step_line(s, t, "noise", weights)))
        else:
            # eps says nothing about x0 where alpha = 0.
            form = "data" if float(s.alpha) == 0 else "noise"
            x_weight, d_weight = first_order(s, t, form)
            rows.append(Row.at(s, form, prediction, LinearUpdate(x=x_weight, history=(d_weight,))))
    return rows


def _weights(schedule: Schedule, past: Points, t: Points, variable: str) -> np.ndarray:
    """w_j for the outputs at `past`, newest first."""
    if variable == "rho":
        # A polynomial in the variable of integration: exact with few nodes, and no logarithm of rho = 0.
        return adams_weights(past.sigma / past.alpha, float(t.sigma / t.alpha))
    log_snr, weights = gauss(_panels(schedule, past.at(0), t))
    # d(rho) = -e^(-lambda) d(lambda): over lambda the integrand is smooth, over rho all of it lies near one end.
    element = -weights * np.exp(-log_snr)
    if variable == "time":
        return lagrange(past.t, schedule.t_of_log_snr(log_snr)) @ element
    return lagrange(past.log_snr, log_snr) @ element


def _panels(schedule: Schedule, s: Points, t: Points) -> np.ndarray:
    """Ends of the intervals in lambda on which the integrand is smooth and short."""
    edges = unit_panels(float(s.log_snr), float(t.log_snr))
    if schedule.num_train_timesteps is None:
        return edges
    # The training indices strictly between the ends: between two of them log(alpha) is linear in t.
    indices = np.arange(math.floor(min(s.t, t.t)) + 1, math.ceil(max(s.t, t.t)))
    edges = np.union1d(edges, np.clip(schedule.log_snr(indices), edges.min(), edges.max()))
    return edges if s.log_snr < t.log_snr else edges[::-1]

"""ER-SDE-Solver 1 to 3 (Cui et al. 2023, arXiv 2309.06169): the extended reverse SDE, with any amount of noise.

With rho = sigma / alpha and the noise scaler phi (their eq. 9 to 11), data form:

    x_t / alpha_t = r x_s / alpha_s + (1 - r) D + c_1 D' + c_2 D'' + sqrt(rho_t^2 - r^2 rho_s^2) xi,   r = phi_t / phi_s
    c_k = integral from rho_t to rho_s of (phi_t / phi(rho) - 1) (rho - rho_s)^(k - 1) / (k - 1)! d(rho)

D' and D'' are divided differences of the outputs over rho. phi = rho is DDIM's ODE, phi = rho^2 the reverse SDE with
eta = 1. The integrals are taken over lambda = -log(rho) by Gauss-Legendre, where the authors' code sums 100 points.
Steps from alpha = 0 or to sigma = 0 are infinite in lambda: of first order, exact in the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..row import LinearUpdate, Row
from ..schedule import Points, Schedule
from .exponential import is_finite, step_orders
from .quadrature import gauss, unit_panels

NoiseScaler = Callable[[np.ndarray], np.ndarray]


def default_noise_scaler(rho: np.ndarray) -> np.ndarray:
    """rho (e^(rho^0.3) + 10), the authors' fifth choice."""
    return rho * (np.exp(rho**0.3) + 10)


def er_sde(
    schedule: Schedule,
    points: Points,
    prediction: str,
    *,
    order: int = 3,
    noise_scaler: NoiseScaler = default_noise_scaler,
    s_noise: float = 1.0,
) -> list[Row]:
    """One row a step, order 1 to 3. noise_scaler: phi on arrays of rho > 0, rising at least as fast as rho."""
    rows = []
    for i, p in enumerate(step_orders(points, order, lower_order_final=False)):
        s, t = points.at(i), points.at(i + 1)
        alpha_t, sigma_t = float(t.alpha), float(t.sigma)
        if is_finite(s, t):
            rho = points.sigma[i + 1 - p : i + 2][::-1] / points.alpha[i + 1 - p : i + 2][::-1]
            r, history, spread = _step(rho, noise_scaler)
        else:
            # The limit for rho_s = inf or rho_t = 0, both with phi_t / phi_s = 0: D and fresh noise alone.
            r, history, spread = 0.0, np.ones(1), sigma_t / alpha_t
        noise = ((i + 1, s_noise * alpha_t * spread),) if s_noise * spread else ()
        x_weight = alpha_t / float(s.alpha) * r if r else 0.0
        line = LinearUpdate(x=x_weight, history=tuple(float(alpha_t * w) for w in history), noise=noise)
        rows.append(Row.at(s, "data", prediction, line))
    return rows


def _step(rho: np.ndarray, scaler: NoiseScaler) -> tuple[float, np.ndarray, float]:
    """(r, weights of the outputs, noise) over alpha_t; rho: the end, then the outputs' places, newest first."""
    end, start = rho[0], rho[1]
    phi_t = scaler(end)
    r = float(phi_t / scaler(start))
    if not 0 <= r * start <= end * (1 + 1e-12):
        raise ValueError("noise_scaler: expected a function that rises at least as fast as rho")
    log_snr, element = gauss(unit_panels(-math.log(start), -math.log(end)))
    # rho at the nodes; -d(rho) = rho d(lambda), and from rho_t to rho_s is backwards in lambda: both signs cancel.
    at = np.exp(-log_snr)
    integrand = (phi_t / scaler(at) - 1) * at * element
    weights = np.zeros(len(rho) - 1)
    weights[0] = 1 - r
    for k in range(1, len(weights)):
        c = float(integrand @ (at - start) ** (k - 1)) / math.factorial(k - 1)
        # The k-th derivative is k! times the divided difference over k + 1 places.
        weights[: k + 1] += c * _divided_difference(rho[1 : k + 2]) * math.factorial(k)
    # rho_t^2 - r^2 rho_s^2 as a product, without cancellation: it is 0 for phi = rho, the ODE.
    return r, weights, math.sqrt(max(0.0, (end - r * start) * (end + r * start)))


def _divided_difference(places: np.ndarray) -> np.ndarray:
    """Weights of the values at the places in their divided difference."""
    return np.array([1 / np.prod(place - np.delete(places, j)) for j, place in enumerate(places)])

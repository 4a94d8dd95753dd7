"""Temporal score rescaling on a flow: the score times a number, which lowers the temperature of what is drawn.

With x = alpha x0 + sigma eps on a flow (alpha + sigma = 1) the score is -eps / sigma. In the time alpha, from noise at
0 to data at 1, the ODE is dx/dalpha = (x - eps) / alpha, and any g adds the Langevin part of an SDE with the same law.
With k eps in place of eps, a step of Euler's method over h is

    x' = x + h ((x - k eps) / alpha - g k eps / sigma) + sqrt(2 g h) xi

    k = (r s^2 + 1) / (r s^2 / K + 1),    r = alpha^2 / sigma^2

which is 1 in noise, where r = 0, and rises to K at the data; s says how early.
"""

from __future__ import annotations

import math

from ..row import LinearUpdate, Row
from ..schedule import Points


def score_ratio(s: Points, limit: float, early: float) -> float:
    """k, with limit for K and early for s."""
    snr = float(s.alpha / s.sigma) ** 2 * early**2
    return (snr + 1) / (snr / limit + 1)


def rescaled_row(s: Points, t: Points, prediction: str, ratio: float, langevin: float | None) -> Row:
    """From s to t. ratio: k. langevin: g, None for the ODE, which draws no noise. At alpha = 0, x stays as it is."""
    if float(s.alpha) == 0:
        return Row.at(s, "noise", prediction, LinearUpdate(x=1.0))
    h, g = float(t.alpha - s.alpha), langevin or 0.0
    weight = -h * ratio * (1 / float(s.alpha) + g / float(s.sigma))
    noise = () if langevin is None else ((1, math.sqrt(2 * g * h)),)
    return Row.at(s, "noise", prediction, LinearUpdate(x=1 + h / float(s.alpha), history=(weight,), noise=noise))

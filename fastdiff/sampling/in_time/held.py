"""What is held of an evaluation while the state that it was made at still moves.

Row by row m = m(x_old) + slope (x - x_old): a linear model of the network, with the slope that it would have on
Gaussian data N(0, s^2), where E[x0 | x] = alpha s^2 / (alpha^2 s^2 + sigma^2) x. Where x stops moving nothing of it is
left, so that it changes how fast rounds converge and not to what. s = infinity holds the noise, as ParaDiGMS and
ParaTAA do; s = 0 holds x0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...plans.plan import Plan
from ...plans.prediction import convert, mixture
from ...plans.row import Row


class Held(NamedTuple):
    """Numbers of a row. slope: dm/dx. guess: (g_x, g_0) of m = g_x x + g_0 x0. x0: (d_x, d_m) of x0 = d_x x + d_m m."""

    slope: float
    guess: tuple[float, float]
    x0: tuple[float, float]

    @classmethod
    def of(cls, row: Row, prediction: str, spread: float) -> Held:
        """Of a row under a prediction; spread: s. What the prediction leaves unknown at this point counts as 0."""
        alpha, sigma = row.alpha, row.sigma
        a, b = mixture(prediction, alpha, sigma) if sigma or prediction != "score" else (0.0, 0.0)
        data, noise = _gaussian(alpha, sigma, spread)
        from_x = a / sigma if sigma else 0.0
        try:
            x0 = convert(prediction, "data", alpha, sigma)
        except ValueError:
            x0 = (0.0, 0.0)
        return cls(a * noise + b * data, (from_x, b - alpha * from_x), x0)

    def moved(self, m: Tensor, x: Tensor, old: Tensor) -> Tensor:
        """m at x, of m at old. The same bits where the two are equal."""
        return torch.add(m.to(x.dtype), x - old, alpha=self.slope) if self.slope else m

    def guessed(self, x: Tensor, x0: Tensor) -> Tensor:
        """m at x if x0 were the prediction."""
        return self.guess[0] * x + self.guess[1] * x0

    def data(self, x: Tensor, m: Tensor) -> Tensor:
        """The x0 that m predicts at x."""
        return self.x0[0] * x + self.x0[1] * m.to(x.dtype)


def held_of(plan: Plan, spread: float) -> list[Held]:
    """Of each row."""
    return [Held.of(row, plan.prediction, spread) for row in plan.rows]


def _gaussian(alpha: float, sigma: float, spread: float) -> tuple[float, float]:
    """(d E[x0 | x] / dx, d E[eps | x] / dx) of data N(0, spread^2)."""
    if math.isinf(spread):
        return (1 / alpha, 0.0) if alpha else (0.0, 1 / sigma)
    total = (alpha * spread) ** 2 + sigma**2
    return (alpha * spread**2 / total, sigma / total) if total else (1 / alpha, 0.0)

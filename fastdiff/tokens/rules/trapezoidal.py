"""A second-order method for the masked process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import STREAMS, Moment, Rule, is_number, require


@dataclass(frozen=True)
class ThetaTrapezoidal(Rule):
    """The theta-trapezoidal method (arXiv:2502.00234), two calls a step.

    In the time -ln(1 - alpha) a mask becomes token k at the rate p(k | x), so that only the law of the tokens is
    approximated: over a step of length d

        x*: masks jump with p = p(. | x) and the chance 1 - exp(-theta d),
        x': the others with r = max(a p(. | x*) - b p(. | x), 0), the chance 1 - exp(-(1 - theta) d sum r),
            a = 1 / (2 theta (1 - theta)),  b = a - 1.

    The last step, which is infinitely long, is the ancestral one. Of second order where no rate is cut off at 0; where
    one token forbids another some are, and the order is the first, with a smaller error than `Ancestral`'s.
    theta: in (0, 1); 0.3 to 0.5 is usual.
    It reads the whole law of each position: several times what other rules read.
    """

    theta: float = 0.4
    name: ClassVar[str] = "trapezoidal"
    timed: ClassVar[bool] = True
    reads_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("theta", self.theta, is_number(self.theta) and 0 < self.theta < 1, "a number in (0, 1)")

    def advance(self, m: Moment) -> Tensor:
        now, then = m.grid
        if then >= 1:
            return m.commit(m.masked, m.evaluate().sample)
        length = math.log1p(-now) - math.log1p(-then)
        first = m.model.log_law(m.tokens, m.alpha).exp()
        jump = m.masked & (m.uniform() < -math.expm1(-self.theta * length))
        middle = m.commit(jump, drawn(first, m.uniforms(m.i * STREAMS)))
        halfway = 1 - (1 - m.alpha) * math.exp(-self.theta * length)
        second = m.model.log_law(middle, halfway).exp()
        a = 1 / (2 * self.theta * (1 - self.theta))
        rates = (a * second - (a - 1) * first).clamp(min=0)
        chance = -torch.expm1(-(1 - self.theta) * length * rates.sum(-1))
        late = (m.open & (middle == m.mask_id)) & (m.uniform(1) < chance)
        return torch.where(late, drawn(rates, m.uniforms(m.i * STREAMS + 1)), middle)


def drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """[B, K] the first token at which the sum of the weights [B, K, V] exceeds its number in (0, 1) of the whole."""
    sums = weights.cumsum(-1)
    found = torch.searchsorted(sums, uniform[..., None] * sums[..., -1:], right=True)
    return found.squeeze(-1).clamp(max=weights.shape[-1] - 1)

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
    It computes with the whole law of each position, which other rules only read.
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
        log_first = m.model.log_law(m.tokens, m.alpha)
        first = log_first.exp()
        jump = m.masked & (m.uniform() < -math.expm1(-self.theta * length))
        middle = m.commit(jump, m.model.draw(log_first, m.i * STREAMS))
        halfway = 1 - (1 - m.alpha) * math.exp(-self.theta * length)
        second = m.model.log_law(middle, halfway).exp()
        a = 1 / (2 * self.theta * (1 - self.theta))
        rates = (a * second - (a - 1) * first).clamp(min=0)
        chance = -torch.expm1(-(1 - self.theta) * length * rates.sum(-1))
        late = (m.open & (middle == m.mask_id)) & (m.uniform(1) < chance)
        return torch.where(late, m.model.draw(rates.log(), m.i * STREAMS + 1), middle)

"""Projection on the measurements by the pseudo-inverse of A, noise-aware where the plan draws noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..plans.plan import Plan
from ..plans.row import Row
from ..sampling.correction import Evaluation
from .measurements import Measurements
from .method import Method


@dataclass(frozen=True, eq=False)
class Pseudoinverse(Method):
    """D' = D + l A^+ (y - A D): D where A sees nothing, the measurements where it does (DDNM, Wang et al. 2023).

    l = 1 in rows that draw no noise: use it there for measurements that are nearly exact. In rows that draw noise of
    standard deviation p, where a is the weight of D, it is DDNM+ (eq. 19): l = min(1, p / (a noise)), and the row draws
    sqrt(p^2 - (a l noise)^2) instead, since the measurements bring the rest. That counts the noise of A^+ y as noise's
    own, so A should have singular values about 1. Takes no gradients through the model.
    """

    def plan(self, plan: Plan, observation: Measurements) -> Plan:
        if observation.operator.pinv is None:
            raise ValueError("pinv: 'pseudoinverse' needs it; give Observation(A, y, noise, pinv=...)")
        if not plan.stochastic:
            return plan
        if observation.std is None:
            raise ValueError("noise: 'pseudoinverse' needs one number with a plan that draws noise")
        pairs = zip(plan.rows, plan.given_x0.rows, strict=True)
        return replace(plan, rows=tuple(_quieter(row, given, observation.std) for row, given in pairs))

    def corrected(self, at: Evaluation, observation: Measurements) -> Tensor:
        local, pinv = observation.linearised(at.denoised), observation.operator.pinv
        assert pinv is not None
        share = _share(at.row, observation.std) if at.plan.stochastic and observation.std else 1.0
        return at.denoised + share * pinv(local.residual).reshape(at.denoised.shape)


def _share(row: Row, noise: float) -> float:
    """l of a row that is given x0."""
    reach = _weight(row) * noise
    return 1.0 if _drawn(row) >= reach else _drawn(row) / reach


def _quieter(row: Row, given: Row, noise: float) -> Row:
    """The row with as much less noise as the measurements bring. given: the row as one that is given x0."""
    drawn = _drawn(row)
    if not drawn:
        return row
    left = math.sqrt(max(drawn**2 - (_weight(given) * _share(given, noise) * noise) ** 2, 0.0)) / drawn
    return replace(row, x=replace(row.x, noise=tuple((j, left * weight) for j, weight in row.x.noise)))


def _drawn(row: Row) -> float:
    """The standard deviation of the noise in x'."""
    return row.x.spread if row.accepts else 0.0


def _weight(row: Row) -> float:
    """The weight of x0 in x' of a row that is given it."""
    return abs(row.x.history[0] * row.p_m) if row.x.history else 0.0

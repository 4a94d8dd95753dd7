"""Whether a model reads each sample's own time: many look at the first one alone."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...plans.plan import Plan
from ..model import Model
from .calls import Asked, TimeCalls

SAME = 1e-4  # of the output's root mean square: far more than another order of sums leaves


def require_own_times(model: Model, plan: Plan, calls: TimeCalls, x: Tensor) -> None:
    """Raises ValueError for a model that reads one time for all samples of a call.

    One sample is evaluated at the times of two rows, in one call; where the outputs are the same, at the second alone.
    """
    other = next((i for i in (plan.nfe // 2, plan.nfe - 1) if plan.rows[i].t != plan.rows[0].t), None)
    if other is None or not len(x):
        return
    one_time = bool(getattr(model, "one_time", False))
    if not one_time:
        place = np.zeros(1, dtype=np.int64)
        ours, theirs = Asked(0, place, x[:1]), Asked(other, place, x[:1])
        first, second = (outputs.m for outputs in calls.outputs([ours, theirs]))
        if _same(first, second):
            one_time = not _same(second, calls.outputs([theirs])[0].m)
    if one_time:
        raise ValueError(
            "model: it reads one time for all samples of a call, and a run parallel in time has several; use"
            " fastdiff.sample"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    return bool((a - b).square().mean().sqrt() <= SAME * b.square().mean().sqrt())

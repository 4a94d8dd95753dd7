"""The scale of guidance at each row of a request in a `StepBatch`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...plans.plan import Plan
from ..guided import plain_scale, rules_of
from ..model import check_guidance, is_guided
from ..rule import Guidance
from ..weights import CONDITIONAL, UNCONDITIONAL

CALLS = ((CONDITIONAL,), (CONDITIONAL, UNCONDITIONAL))


def scales_of(plan: Plan, guidance: float | Tensor | Guidance | None, uncond: object, batch: int) -> np.ndarray | None:
    """[rows, n] the scale at each row, NaN where it makes no unconditional call; None without guidance.

    Raises TypeError or ValueError naming the argument, also where guidance is more than a scale at each row.
    """
    if isinstance(guidance, Guidance):
        scale = plain_scale(plan, guidance)
        if scale is None:
            check_guidance(2.0, uncond, "batch", batch)
            return np.repeat(_by_row(plan, guidance)[:, None], batch, axis=1)
        guidance = scale
    check_guidance(guidance, uncond, "batch", batch)
    if not is_guided(guidance):
        return None
    numbers = guidance.tolist() if isinstance(guidance, Tensor) else guidance
    return np.array(np.broadcast_to(np.asarray(numbers, dtype=np.float64), (plan.nfe, batch)))


def _by_row(plan: Plan, guidance: Guidance) -> np.ndarray:
    """[rows] the scales of a guidance that is plain at every row, NaN where it makes the conditional call alone."""
    rules = rules_of(plan, guidance)
    if any(rule.number is None or rule.calls not in CALLS for rule in rules):
        raise ValueError(f"guidance: a StepBatch takes a scale at each row, {guidance!r} is more than that")
    return np.array([np.nan if len(rule.calls) == 1 else rule.number for rule in rules], dtype=np.float64)

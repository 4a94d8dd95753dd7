"""Plans between PhysicsNeMo's noise levels, for a network that predicts the sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...plans.build import plan as make_plan
from ...plans.default import SOLVER
from ...plans.plan import Plan
from ...plans.schedule import Schedule


def rounded(net: Any, levels: np.ndarray) -> np.ndarray:
    """The levels that the network knows next to these."""
    return net.round_sigma(torch.as_tensor(levels)).double().cpu().numpy()


def own_plan(solver: str, net: Any, levels: np.ndarray, churn: dict[str, float]) -> Plan:
    """PhysicsNeMo's "heun" or "euler" on its levels."""
    return _between(solver, rounded(net, levels), **churn)


def plan_of(solver: str | Plan | None, net: Any, levels: np.ndarray) -> Plan:
    """A plan of fastdiff's: None for the measured default of so many evaluations, between the first level and the last.

    Raises ValueError for a plan of a model with another prediction.
    """
    if isinstance(solver, Plan):
        if solver.prediction != "sample":
            raise ValueError(f"solver: expected a plan of prediction 'sample', got one of {solver.prediction!r}")
        return solver
    if solver is not None:
        return _between(solver, rounded(net, levels))
    plan = make_plan(None, Schedule.edm(float(levels[-1]), float(levels[0])), len(levels), prediction="sample")
    asked = np.array([row.t for row in plan.rows])
    known = rounded(net, asked)
    # The default's numbers belong to its own levels: of a network that knows but some, a solver finds them.
    return plan if np.allclose(known, asked, rtol=1e-6) else _between(SOLVER, known)


def _between(solver: str, levels: np.ndarray, **options: float) -> Plan:
    schedule = Schedule.edm(float(levels.min()), float(levels.max()))
    return make_plan(solver, schedule, sigmas=[*levels, 0.0], prediction="sample", **options)  # type: ignore[arg-type]

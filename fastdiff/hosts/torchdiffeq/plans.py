"""What `odeint` runs: a plan on the linear path, alpha = 1 - sigma, between two of its levels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import numpy as np

from ...plans.build import plan as make_plan
from ...plans.catalogue import find_solver
from ...plans.default import SOLVER, default_plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule

PATH = Schedule.flow(t_min=1e-12)
DEFAULT = "fastdiff"
Options = tuple[tuple[str, Any], ...]  # names with values
LIKE_THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "heun2": ("heun", {"clean_end": "heun"})
}  # ours takes the last step by the midpoint rule


def _kept(make: Callable[..., Plan]) -> Callable[..., Plan]:
    """The same plan for the same arguments: making one takes longer than its steps, on a small state."""
    kept = lru_cache(64)(make)

    @wraps(make)
    def found(*arguments: Any) -> Plan:
        try:
            hash(arguments)
        except TypeError:
            return make(*arguments)
        return kept(*arguments)

    return found


@_kept
def default_between(first: float, last: float, evaluations: int, options: Options = ()) -> Plan:
    """The measured default of so many evaluations between two levels sigma; `fd.plan(None, ...)` from noise to data.

    Between others it is the default's solver of the default's order, on its "power" grid.
    """
    if (first, last) == (1.0, 0.0):
        return make_plan(None, PATH, evaluations, **dict(options))
    chosen = default_plan(PATH, evaluations, False)
    # A step from clean data takes two evaluations.
    steps = evaluations - 1 if first == 0 and evaluations > 1 else evaluations
    levels = np.linspace(first ** (1 / chosen.rho), last ** (1 / chosen.rho), steps + 1) ** chosen.rho
    levels[[0, -1]] = first, last
    return of_solver(SOLVER, tuple(levels.tolist()), (("order", min(chosen.order, steps)), *options))


@_kept
def of_solver(method: str, levels: tuple[float, ...], options: Options = ()) -> Plan:
    """The plan of a solver on all these levels, which fall, to data, or rise, to noise.

    Raises ValueError or TypeError naming the argument.
    """
    name, more = LIKE_THEIRS.get(method, (method, {}))
    entry, _ = find_solver(name)
    if entry.stochastic or not entry.order:
        raise ValueError(f"method: expected a solver of the ODE, {entry.name} is none")
    rises = levels[-1] > levels[0]
    falling = levels[::-1] if rises else levels
    return make_plan(name, PATH, grid=falling, final_sigma="sigma_min", invert=rises, **more, **dict(options))


def own(plan: Plan, first: float, last: float) -> Plan:
    """A caller's plan. Raises ValueError where it is not one of velocities between these levels."""
    ends = plan.start[1], plan.end[1]
    on_path = all(abs(row.alpha + row.sigma - 1) < 1e-6 for row in plan.rows)
    if plan.prediction != "flow_prediction" or not on_path or np.abs(np.subtract(ends, (first, last))).max() > 1e-6:
        raise ValueError(
            f"method: expected a plan of velocities on the linear path from sigma {first:g} to {last:g}, got {plan!r}"
        )
    return plan

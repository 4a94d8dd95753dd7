"""Velocity fields dx/dt from noise at t = 0 to data at t = 1, as libraries of speech have them, on plans of a flow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..plans.build import plan
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from ..sampling.sample import sample
from .default_plan import GUIDED, partial_plan

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x [B, ...], t of no dimension) -> dx/dt [B, ...]
FLOW = Schedule.flow()
ROUNDING = 2e-3  # of times in half precision


def plan_of(solver: str | Plan | None, times: Sequence[float], guided: bool = False) -> Plan:
    """A plan from times[0] to times[-1], rising within [0, 1].

    solver: None for the default of len(times) - 1 evaluations, whose times are its own where the way ends at data. A
        name is that solver at these times. A plan is itself.
    guided: as in `fastdiff.plan`.
    Raises TypeError or ValueError naming the argument.
    """
    if isinstance(solver, Plan):
        if solver.prediction != "flow_prediction" or solver.rows[0].alpha + solver.rows[0].sigma != 1:
            raise ValueError(f"solver: expected a plan on fastdiff.Schedule.flow(), got {solver!r}")
        return solver
    if solver is not None and not isinstance(solver, str):
        raise TypeError(f"solver: expected None, a solver's name or a fastdiff.Plan, got {type(solver).__name__}")
    return _plan_of(solver, tuple(times), guided)


@functools.lru_cache(maxsize=32)
def _plan_of(solver: str | None, times: tuple[float, ...], guided: bool) -> Plan:
    sigmas = 1 - np.array(times, dtype=np.float64)
    sigmas[-1] = 0 if abs(sigmas[-1]) < ROUNDING else sigmas[-1]
    steps = len(sigmas) - 1
    if solver is not None:
        return plan(solver, FLOW, sigmas=sigmas)
    if (sigmas[0], sigmas[-1]) == (1, 0):
        return plan(None, FLOW, steps, guided=guided)
    if sigmas[-1] == 0:
        return partial_plan(FLOW, sigmas[0], steps, "flow_prediction", GUIDED if guided else 1.0)
    return plan("adams_moulton", FLOW, sigmas=sigmas, order=min(2, steps))


def integrate(velocity: Velocity, plan: Plan, x: Tensor) -> Tensor:
    """The solution from x [B, ...] at the plan's beginning, with the states on the way: [K, B, ...], like x."""

    def backward(x: Tensor, t: Tensor) -> Tensor:
        return -velocity(x, (1 - t[0]).to(x.dtype))

    if not len(x):
        return x.new_empty((plan.nfe + 1, *x.shape))
    _, states = sample(backward, plan, x / plan.init_scale, return_trajectory=True)
    assert isinstance(states, Tensor)
    return states


def solve(velocity: Velocity, times: Tensor, x: Tensor, solver: str | Plan | None, guided: bool) -> Tensor:
    """`integrate` with `plan_of`. times: [n + 1] on any device."""
    with torch.no_grad():
        return integrate(velocity, plan_of(solver, times.tolist(), guided), x)

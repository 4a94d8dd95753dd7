"""smalldiffusion's generator `samples` on fastdiff's plans. The library itself is not imported.

from fastdiff.hosts.smalldiffusion import samples  # was: from smalldiffusion import samples

*_, x0 = samples(model, schedule.sample_sigmas(10), batchsize=16)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ..plans.build import plan as make_plan
from ..plans.plan import Plan
from ..plans.row import LinearUpdate, Row
from ..plans.schedule import Points, Schedule
from ..sampling.sample import iter_sample

__all__ = ["samples"]


def samples(
    model: Any,
    sigmas: Tensor | Sequence[float],
    gam: float | None = None,
    mu: float | None = None,
    cfg_scale: float = 0.0,
    batchsize: int = 1,
    xt: Tensor | None = None,
    cond: Tensor | None = None,
    accelerator: Any = None,
    *,
    solver: str | Plan | None = None,
    seeds: Any = None,
    **options: Any,
) -> Iterator[Tensor]:
    """Yields x [B, ...] after every step, x0 at last.

    model: of smalldiffusion, x0 + sigma eps -> eps, `model.predict_eps_cfg(x, sigma, cond, cfg_scale)`; or a flow's
        (PredFlow), (1 - sigma) x0 + sigma eps -> eps - x0.
    sigmas: N + 1 falling levels for N evaluations. The default takes the first one and N, the other levels are its own,
        and it ends on clean data, where the library's ends at the last level.
    gam, mu: smalldiffusion's own step, if either is given: x' = x - (s - s_p) (gam e + (1 - gam) e_before) + eta xi,
        with s_p = (s' / s^mu)^(1 / (1 - mu)) and eta^2 = s'^2 - s_p^2, at the levels given.
    cfg_scale, batchsize, xt, cond, accelerator: the library's; xt has noise of sigmas[0] in it. An accelerator is only
        asked for its device.
    solver: a name of `fastdiff.solvers()`, at the levels given, or a `fastdiff.Plan`. seeds: for noise. options: of
        `fastdiff.plan`, with a name.

    Raises TypeError or ValueError naming the argument, before the first step.
    """
    levels = [float(s) for s in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas)]
    if len(levels) < 2 or not all(a > b >= 0 for a, b in pairwise(levels)):
        raise ValueError(f"sigmas: expected at least two falling levels >= 0, got {levels}")
    if not hasattr(model, "predict_eps_cfg"):
        raise TypeError(f"model: expected one of smalldiffusion's, with predict_eps_cfg, got {type(model).__name__}")
    if mu is not None and not 0 <= mu < 1:
        raise ValueError(f"mu: expected a number in [0, 1), got {mu}")
    if cond is not None and xt is not None and len(cond) != len(xt):
        raise ValueError(f"cond: expected as many as xt has samples, {len(xt)}, got {len(cond)}")
    flow = "PredFlow" in type(model).__name__
    prediction = "flow_prediction" if flow else "epsilon"
    if solver is not None and (gam is not None or mu is not None):
        raise ValueError("solver: gam and mu are a solver of their own; give one or the other")
    if gam is not None or mu is not None:
        plan = _own(levels, 1.0 if gam is None else gam, mu or 0.0, flow, prediction)
    else:
        plan = _plan(levels, solver, flow, prediction, cond is not None and cfg_scale != 0, options)
    return _run(model, plan, levels[0], cfg_scale, batchsize, xt, cond, accelerator, seeds)


def _plan(
    levels: list[float], solver: str | Plan | None, flow: bool, prediction: str, guided: bool, options: dict[str, Any]
) -> Plan:
    if isinstance(solver, Plan):
        return solver
    least = min(s for s in levels if s > 0)
    schedule = Schedule.flow(t_min=min(least, 0.5)) if flow else Schedule.edm(least, levels[0])
    if solver is not None:
        return make_plan(solver, schedule, sigmas=levels, prediction=prediction, **options)
    for name in options:
        raise ValueError(f"{name}: is an option of a named solver, got solver=None")
    return make_plan(None, schedule, len(levels) - 1, prediction=prediction, guided=guided)


def _own(levels: list[float], gam: float, mu: float, flow: bool, prediction: str) -> Plan:
    """smalldiffusion's step, a row each."""
    rows = []
    for i, (s, after) in enumerate(pairwise(levels)):
        down = (after / s**mu) ** (1 / (1 - mu))
        shares = (gam, 1 - gam) if i else (1.0,)
        noise = math.sqrt(max(after**2 - down**2, 0.0))
        update = LinearUpdate(
            x=1.0, history=tuple((down - s) * w for w in shares), noise=((i + 1, noise),) if noise else ()
        )
        point = Points(*np.array([s, 1 - s if flow else 1.0, s]))
        rows.append(Row.at(point, "flow" if flow else "noise", prediction, update))
    end = levels[-1]
    return Plan(tuple(rows), (1 - end if flow else 1.0, end), prediction, "smalldiffusion", "explicit")


def _run(
    model: Any,
    plan: Plan,
    first: float,
    cfg_scale: float,
    batchsize: int,
    xt: Tensor | None,
    cond: Tensor | None,
    accelerator: Any,
    seeds: Any,
) -> Iterator[Tensor]:
    model.eval()
    if xt is None:
        xt = model.rand_input(batchsize) * first
    xt = xt if accelerator is None else xt.to(accelerator.device)
    cond = None if cond is None else cond.to(xt.device)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return model.predict_eps_cfg(x, t[0], cond, cfg_scale)

    for step in iter_sample(predict, plan, xt / plan.init_scale, seeds=seeds):
        if step.accepted:
            yield step.x.clone()

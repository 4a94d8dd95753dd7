"""`predictor="fastdiff"`: what stands in the place of sbi's `euler_maruyama` and of its adaptive ODE."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...sampling.sample import Step, iter_sample
from .paths import Path, path_of

if TYPE_CHECKING:
    Predictor: Any = object
    register: Callable[[type], type]
else:
    try:
        from sbi.samplers.score.predictors import Predictor, register_predictor

        register = register_predictor("fastdiff")
    except ImportError:

        class Predictor:
            """sbi's base class, where it is not installed."""

            def __init__(self, potential_fn: Any) -> None:
                self.potential_fn, self.device = potential_fn, potential_fn.device

            def __call__(self, theta: Tensor, t1: Tensor, t0: Tensor) -> Tensor:
                return self.predict(theta, t1, t0)

        def register(cls: type) -> type:
            return cls


MOST_STEPS = 2000


@register
class FastdiffPredictor(Predictor):
    """The probability flow ODE from t_max to t_min, in as many evaluations as sbi's `Diffuser` makes calls.

    The first call of a run tells how many will follow, by the length of its step on sbi's own time grid. All calls but
    the last return states at the plan's times, not at sbi's. No noise is drawn but the start, which is sbi's.
    Observations that are independent and identically distributed, and sbi's guidance, change the score inside sbi and
    are left alone: the plan is then of low order.

    potential_fn: sbi's VectorFieldBasedPotential, of a score estimator with marginals (VP, sub-VP, VE) or a flow.
    plan: None for the default of `fastdiff.plan`; the name of a solver of `fastdiff.solvers()`, which takes its steps
        at sbi's times; or a plan, of `fastdiff.fit` for instance.
    ts: [K] the times that `sample` is given as `ts`. The steps are then at these, of the solver adams_moulton if plan
        is None. Needed for times that are not sbi's own grid, with a corrector, and with intermediate samples.

    A corrector moves theta between the steps; a solver with history then begins anew, so its steps are of first order.
    Raises TypeError or ValueError naming the argument.
    """

    def __init__(self, potential_fn: Any, plan: str | Plan | None = None, ts: Tensor | None = None) -> None:
        super().__init__(potential_fn)
        if plan is not None and not isinstance(plan, (str, Plan)):
            raise TypeError(f"plan: expected a solver's name, a fastdiff.Plan or None, got {type(plan).__name__}")
        if isinstance(plan, Plan) and ts is not None:
            raise ValueError("ts: the plan has times of its own; give one or the other")
        self.plan, self.ts = plan, ts
        self._estimator = potential_fn.vector_field_estimator
        self._steps: Iterator[Step] = iter(())
        self._latest: Tensor | None = None

    @torch.no_grad()
    def predict(self, theta: Tensor, t1: Tensor, t0: Tensor) -> Tensor:
        """theta [S, B, ...] after the step from t1 to the earlier t0, scalars."""
        if self._latest is None or theta is not self._latest:
            self._steps = self._begin(theta, float(t1), float(t0))
        step = next(step for step in self._steps if step.accepted)
        self._latest = step.x.to(theta.dtype, copy=True)
        return self._latest

    def _begin(self, theta: Tensor, t1: float, t0: float) -> Iterator[Step]:
        adapted = self._adapted()
        path = path_of(self.potential_fn, adapted)
        plan = self._plan_of(path, self._times(t1, t0), adapted)
        return iter_sample(path.model, plan, theta / plan.init_scale)

    def _adapted(self) -> bool:
        """Whether sbi makes the score of several observations or guides it."""
        many = self.potential_fn.x_is_iid and len(self.potential_fn.x_o) > 1
        return many or getattr(self.potential_fn, "guidance_method", None) is not None

    def _times(self, t1: float, t0: float) -> Tensor:
        """sbi's times from t1 on: those given, or its own grid whose first step is this one."""
        if self.ts is not None:
            first = int((self.ts - t1).abs().argmin())
            return self.ts[first:]
        if not _same(t1, self._estimator.t_max):
            raise ValueError(
                "ts: theta is not what the last step returned; with a corrector, give the times in"
                ' predictor_params={"ts": ts} too'
            )
        counts = range(2, MOST_STEPS + 1)
        grid = self._estimator.solve_schedule
        place = bisect_left(counts, t0 - 1e-6 * (t1 - t0), key=lambda count: float(grid(count)[1]))
        count = counts[min(place, len(counts) - 1)]
        if not _same(float(grid(count)[1]), t0):
            raise ValueError(
                f"ts: expected sbi's own times, of at most {MOST_STEPS} steps, or these in predictor_params too;"
                f" got a first step from {t1:g} to {t0:g}"
            )
        return grid(count)

    def _plan_of(self, path: Path, times: Tensor, adapted: bool) -> Plan:
        count = len(times) - 1
        if isinstance(self.plan, Plan):
            accepted = sum(row.accepts for row in self.plan.rows)
            if accepted != count:
                raise ValueError(f"steps: expected {accepted + 1} for this plan, got {count + 1}")
            return self.plan
        if self.plan is None and self.ts is None:
            return make_plan(None, path.schedule, count, guided=adapted)
        sigmas = path.schedule.coordinate(path.schedule.at(times.double().cpu().numpy()))
        order = min(2, count) if self.plan is None else None
        return make_plan(self.plan or "adams_moulton", path.schedule, sigmas=sigmas, order=order)


def _same(t: float, other: float) -> bool:
    return abs(t - other) < 1e-5

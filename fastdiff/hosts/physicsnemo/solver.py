"""`PlanSolver`: a Solver of PhysicsNeMo's `sample`, which hands in x and the times of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ops.reference import compute_dtype
from ...plans.build import plan as make_plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from ...sampling.run import Run


class PlanSolver:
    """Any of fastdiff's ODE solvers as PhysicsNeMo's Solver.

        solver = PlanSolver(denoiser, noise_scheduler, num_steps)
        x0 = sample(denoiser, xN, noise_scheduler, num_steps, solver=solver)

    denoiser: denoiser(x, t [B]) -> dx/dt of the ODE, from `noise_scheduler.get_denoiser`.
    noise_scheduler: one of PhysicsNeMo's with alpha = 1 (EDM, VE) or alpha^2 + sigma^2 = 1 (VP).
    num_steps: as `sample` is given it. solver: None for `fastdiff.plan`'s measured default, an evaluation a step at
        times of its own, `time_steps`; or a name, on PhysicsNeMo's times. options: of `fastdiff.plan`.

    `sample`'s own times are read for where its run begins and ends: intermediate x are those of `time_steps`. Raises
    ValueError for other noise schedulers, stochastic solvers, and a run that begins elsewhere.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        noise_scheduler: Any,
        num_steps: int,
        solver: str | None = None,
        **options: Any,
    ) -> None:
        self.denoiser, self._scheduler, self.num_steps = denoiser, noise_scheduler, num_steps
        times = noise_scheduler.timesteps(num_steps, dtype=torch.float64)
        alpha, sigma = noise_scheduler.alpha(times[:-1]), noise_scheduler.sigma(times[:-1])
        self._preserves = not torch.allclose(alpha, torch.ones_like(alpha))
        if self._preserves and not torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-4):
            raise ValueError("noise_scheduler: expected alpha = 1 or alpha^2 + sigma^2 = 1")
        levels = (sigma / alpha).tolist()
        schedule = Schedule.edm(levels[-1], levels[0])
        grid = {"steps": num_steps} if solver is None or "grid" in options else {"sigmas": [*levels, 0.0]}
        self.plan: Plan = make_plan(solver, schedule, prediction="sample", **grid, **options)
        if self.plan.stochastic:
            raise ValueError(f"solver: expected an ODE solver, got {solver!r}")
        told = [self._time(row.sigma) for row in self.plan.rows]
        self._times = torch.stack(told)
        accepted = [t for t, row in zip(told[1:], self.plan.rows, strict=False) if row.accepts]
        self.time_steps = torch.stack([told[0], *accepted, times[-1]])
        self._run: Run | None = None

    def _time(self, level: float) -> Tensor:
        """The scheduler's time of sigma / alpha."""
        s = torch.tensor(level, dtype=torch.float64)
        return self._scheduler.sigma_inv(s / (1 + s**2).sqrt() if self._preserves else s)

    @torch.no_grad()
    def step(self, x: Tensor, t_cur: Tensor, t_next: Tensor) -> Tensor:
        """x [B, ...] after the step that is due. t_cur, t_next: [B] `sample`'s times."""
        ends = float(t_next[0]) == float(self.time_steps[-1])
        run = self._at(x, float(t_cur[0]))
        while True:
            i = run.i
            run.apply(i, self._x0(run.x, self._times[i].to(x.dtype).expand(len(x)), x.dtype))
            if self.plan.rows[i].accepts or run.i == self.plan.nfe:
                break
        if ends != (run.i == self.plan.nfe):
            raise ValueError(f"num_steps: expected {self.num_steps} steps, as the solver was made for")
        scale = self._alpha(self.plan.rows[run.i].sigma) if run.i < self.plan.nfe else 1.0
        return (run.x * scale).to(x.dtype)

    def _at(self, x: Tensor, t: float) -> Run:
        """The run that is due, at x."""
        dtype, first = compute_dtype(x.dtype), float(self.time_steps[0])
        run = self._run
        begins = run is None or run.i == self.plan.nfe or abs(t - first) <= 1e-4 * first
        if begins and abs(t - first) > 1e-3 * first:
            raise ValueError(f"time_steps: expected to begin at {first:g}, got {t:g}")
        if begins or run is None:
            run = self._run = Run(self.plan, x.to(dtype, copy=True), model_dtype=dtype)
        run.x.copy_(x / self._alpha(self.plan.rows[run.i].sigma))
        return run

    def _alpha(self, level: float) -> float:
        return (1 + level**2) ** -0.5 if self._preserves else 1.0

    def _x0(self, z: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        """x0 of dx/dt = alpha' x0 + sigma' eps and x = alpha x0 + sigma eps, at z = x / alpha."""
        place, scheduler = t[:1].double(), self._scheduler
        alpha, sigma = float(scheduler.alpha(place)), float(scheduler.sigma(place))
        alpha_dot, sigma_dot = float(scheduler.alpha_dot(place)), float(scheduler.sigma_dot(place))
        x = alpha * z
        rate = self.denoiser(x.to(dtype), t).to(z.dtype)
        return (sigma_dot * x - sigma * rate) / (sigma_dot * alpha - sigma * alpha_dot)

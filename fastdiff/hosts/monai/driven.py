"""A plan's run whose loop is MONAI's: it hands in x, and gets the next."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.reference import compute_dtype
from ...plans.plan import Plan
from ...plans.prediction import convert
from ...sampling.noise import seed_tensor
from ...sampling.run import Run
from .training import Training


class Driven:
    """The runs of a plan, one after the other. times: at which the network is called, in its own units, in float32.

    A run begins at the first time, and wherever it comes again while another one is due: after an interrupted run too.
    """

    def __init__(self, plan: Plan, training: Training) -> None:
        self._training = training
        self._run: Run | None = None
        self._given: Tensor | None = None  # what the last step has returned
        self.plan = plan.given_x0 if training.bounds else plan
        self.times = torch.tensor([training.unit * row.t for row in plan.rows]).tolist()
        self._to_x0 = [convert(training.prediction, "data", row.alpha, row.sigma) for row in plan.rows]

    @torch.no_grad()
    def step(self, m: Tensor, t: float, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(x', x0) [B, ...] in x's dtype, of the row that is due."""
        dtype = compute_dtype(x.dtype)
        run = self._at(t, x, generator)
        i, m = run.i, self._training.sign * m.to(dtype)
        by_x, by_m = self._to_x0[i]
        x0 = by_x * run.x + by_m * m
        if self._training.bounds:
            m = x0 = x0.clamp(*self._training.bounds)
        run.apply(i, m)
        self._given = run.x.to(x.dtype, copy=True)  # the run writes on
        return self._given, x0.to(x.dtype)

    def _at(self, t: float, x: Tensor, generator: torch.Generator | None) -> Run:
        """The run that x belongs to, at the row of time t."""
        run = self._run
        if run is not None and run.i < self.plan.nfe and self._is(run.i, t):
            if x is not self._given or x.dtype == run.x.dtype:  # the host may have changed it, also in place
                run.x.copy_(x)
            return run
        if not self._is(0, t):
            due = self.times[0 if run is None or run.i == self.plan.nfe else run.i]
            raise ValueError(f"timestep: expected {due:g}, the run's next, or {self.times[0]:g} to begin, got {t:g}")
        state = x.to(compute_dtype(x.dtype), copy=True)
        seeds = None
        if self.plan.stochastic:
            device = "cpu" if generator is None else generator.device
            drawn = torch.randint(2**62, (len(x),), generator=generator, device=device)
            seeds = seed_tensor(drawn, len(x), x.device)
        self._run = Run(self.plan, state, model_dtype=state.dtype, seeds=seeds)
        return self._run

    def _is(self, i: int, t: float) -> bool:
        return abs(self.times[i] - t) <= 1e-6 * max(self.times[0], 1.0)

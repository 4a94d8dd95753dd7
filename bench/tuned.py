"""A problem as the search for the default sees it: differentiable in the noise levels and the shares of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastdiff.plans.schedule import Schedule
from fastdiff.plans.tabulated import scaled_levels, spread_of

from .defaults import SIMPLE
from .mixtures import Exact
from .problems import Problem
from .quality import Study, measured, plan_within

STEP = 1e-4  # of the difference quotient of the model's time by the level


@dataclass(frozen=True)
class Tuned:
    """A problem in x / (alpha + sigma), its seeds, its noise there, and its converged samples."""

    problem: Problem
    seeds: list[int]
    start: float  # sigma / (alpha + sigma)
    noise: Tensor
    exact: Tensor
    rules: dict[int, tuple[float, float]] = field(default_factory=dict)  # what `simple` has found

    @classmethod
    def of(cls, problem: Problem, seeds: list[int]) -> Tuned:
        point = problem.schedule.at(problem.schedule.t_max)
        size = float(point.alpha + point.sigma)
        scale = float(point.sigma) if problem.schedule.kind == "ve" else 1.0
        noise = problem.noise(seeds).double() * (scale / size)
        return cls(problem, seeds, float(point.sigma) / size, noise, Study(problem, len(seeds), 0).converged(seeds))

    def distances(self, levels: Tensor, shares: list[Tensor]) -> Tensor:
        """Root mean square distance of each sample, by the table of these levels and shares, oldest first."""
        x, data = self.noise, []
        inner = scaled_levels(levels, self.start, spread_of(self.problem.schedule))
        points = [torch.tensor(self.start, dtype=torch.float64), *inner, torch.zeros(())]
        for s, t, share in zip(points, points[1:], shares, strict=False):
            data.append(self.predicted(x, s))
            mean = sum(w * d for w, d in zip(share, data[-len(share) :], strict=True))
            x = t / s * x + (1 - t / s) * mean
        return (x - self.exact).flatten(1).square().mean(1).sqrt()

    def predicted(self, x: Tensor, level: Tensor) -> Tensor:
        """The model's x0 at x / (alpha + sigma)."""
        if isinstance(self.problem, Exact):
            return self.problem.mean(x, 1 - level, level)
        schedule = self.problem.schedule
        size = {"flow": 1.0, "ve": 1 / (1 - level)}.get(schedule.kind, ((1 - level) ** 2 + level**2) ** -0.5)
        alpha, sigma, x = (1 - level) * size, level * size, x * size
        m = self.output(x.to(self.problem.dtype), _time(schedule, level, self.start)).double()
        if self.problem.prediction == "epsilon":
            return (x - sigma * m) / alpha
        # Of a velocity, v = alpha eps - sigma x0 or eps - x0.
        velocity = alpha * x - sigma * m if self.problem.prediction == "v_prediction" else x - sigma * m
        return m if self.problem.prediction == "sample" else velocity

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        told: dict[str, Any] = self.problem.conditions(self.seeds)
        scale, uncond = told.pop("guidance", None), told.pop("uncond", {})
        t = t.to(x.dtype).expand(len(x))
        m = self.problem.model(x, t, **told)
        if scale is None:
            return m
        without = self.problem.model(x, t, **{name: value.expand(len(x)) for name, value in uncond.items()})
        return without + scale * (m - without)

    def simple(self, evaluations: int) -> tuple[float, float]:
        """The least median and the least root mean square error of Euler, midpoint and Heun on uniform times."""
        if evaluations not in self.rules:
            plans = [plan_within(self.problem, rule, evaluations, "time") for rule in SIMPLE.values()]
            found = [measured(self.problem.draw(p, self.seeds), self.exact) for p in plans if p is not None]
            self.rules[evaluations] = (min(f["median"] for f in found), min(f["rmse"] for f in found))
        return self.rules[evaluations]


def _time(schedule: Schedule, level: Tensor, start: float) -> Tensor:
    """The model's time at a level, with its derivative."""
    here = float(level.detach())
    high, low = min(here + STEP, start - STEP / 10), max(here - STEP, STEP / 10)
    t_high, t_low = (float(schedule.at_coordinate(s, "flow").t) for s in (high, low))
    t = schedule.t_max if here >= start else float(schedule.at_coordinate(here, "flow").t)
    return t + (level - here) * ((t_high - t_low) / (high - low))

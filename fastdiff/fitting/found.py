"""What the stages of a fit share, and what they hand on to one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import Plan
from ..plans.schedule import Points, Schedule
from ..sampling.gaussian import GaussianStart
from .journal import Journal, Trial
from .lockstep import drawn_together
from .parallel import spec_of
from .search import Candidate, candidates
from .sources import ModelSource
from .space import PlanSpace
from .target import FitTarget
from .trajectory import Trajectory, distances

HEAD_LEVELS = (20.0, 10.0, 5.0, 3.0, 2.0)  # sigma / alpha over the data's own spread, where a head start may end


@dataclass
class Fit:
    """What all stages share.

    trajectory: converged runs of the first samples. references: [N, ...] the converged samples of all, if drawn.
    held_out: how many of the last samples only judge. reuse_uncond: whether plans whose rows do so are tried.
    """

    target: FitTarget
    schedule: Schedule
    prediction: str
    steps: int
    trajectory: Trajectory
    journal: Journal
    references: Tensor | None = None
    held_out: int = 0
    seed: int = 0
    head: GaussianStart | None = None
    save_memory: bool = False
    progress: bool = False
    reuse_uncond: bool = False

    @property
    def fitted(self) -> int:
        """How many samples are fitted to; they come first."""
        return len(self.target.noise) - self.held_out

    def starts(self, plan: Plan) -> Tensor:
        """The first states of the trajectories' samples."""
        return self.target.started(plan, torch.arange(len(self.trajectory)), self.head)

    def judge(self, plan: Plan, places: Tensor) -> Tensor:
        """[n] distances of the samples at `places` [n] from the converged ones."""
        exact = self.trajectory.end if self.references is None else self.references
        return distances(self.target.draw(plan, places, self.head), exact[places])

    def judge_together(self, plans: Sequence[Plan], places: Tensor) -> list[Tensor]:
        """[n] distances for each of the plans, of the trajectories' samples at `places` [n]."""
        source, exact = ModelSource(self.target, places), self.trajectory.end[places]
        some = max(1, self.target.together // len(places))
        found: list[Tensor] = []
        for i in range(0, len(plans), some):
            starts = [self.target.started(plan, places, self.head) for plan in plans[i : i + some]]
            found += [distances(x, exact) for x in drawn_together(source, plans[i : i + some], starts)]
        return found

    def judge_held_out(self, stage: str, plan: Plan) -> Trial:
        """The trial of a plan on the held-out samples."""
        each = self.judge(plan, torch.arange(self.fitted, len(self.target.noise)))
        return self.trial(stage, plan.solver, each)

    def trial(self, stage: str, name: str, each: Tensor | np.ndarray) -> Trial:
        """The trial of a plan from its distances [n]."""
        each = torch.as_tensor(each).double()
        sizes = float(each.mean()), float(each.median()), float(each.square().mean().sqrt())
        budget = self.target.budget
        return Trial(stage, name, self.steps, *sizes, budget.seconds, evaluations=round(budget.evaluations))


@dataclass(frozen=True)
class Found:
    """A place in the plan space of a candidate: numbers p, and the distances [n] of samples there.

    calls, uncond: of each row under guidance, whether it makes the unconditional call, and its `Row.uncond`; empty
    where all make it.
    """

    candidate: Candidate
    space: PlanSpace
    p: np.ndarray
    each: np.ndarray
    calls: tuple[bool, ...] = ()
    uncond: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def at(cls, candidate: Candidate) -> Found:
        """The candidate itself."""
        spec = candidate.spec
        space = PlanSpace(spec.build, spec.schedule, candidate.points)
        return cls(candidate, space, np.zeros(space.size), np.full(1, np.inf))

    @property
    def plan(self) -> Plan:
        """The plan with these numbers."""
        plan = self.space.plan_of(self.p)
        if not self.uncond:
            return plan
        return replace(plan, rows=tuple(replace(r, uncond=u) for r, u in zip(plan.rows, self.uncond, strict=True)))

    @property
    def mean(self) -> float:
        """The mean distance."""
        return float(self.each.mean())

    @property
    def name(self) -> str:
        """For the reader."""
        return f"fitted {self.candidate.name}" + (
            f", u in {sum(self.calls)} of {len(self.calls)}" if self.calls else ""
        )

    def record(self) -> dict[str, object]:
        """What JSON needs to make it again."""
        points = [v.tolist() for v in self.candidate.points]
        spec = self.candidate.spec
        return {
            "solver": spec.solver, "options": spec.options, "grid": self.candidate.grid, "points": points,
            "p": self.p.tolist(), "each": self.each.tolist(), "calls": spec.calls,
        }  # fmt: skip

    @classmethod
    def restored(cls, record: dict[str, Any], schedule: Schedule, prediction: str) -> Found:
        """What `record` described."""
        spec = spec_of(record["solver"], schedule, prediction, record["options"], tuple(record.get("calls", ())))
        points = Points(*(np.array(v) for v in record["points"]))
        candidate = Candidate(spec, record["grid"], points, spec.build(points))
        space = PlanSpace(spec.build, schedule, points)
        return cls(candidate, space, np.array(record["p"]), np.array(record["each"]))


def after_head(fit: Fit, rows: int) -> list[Candidate]:
    """Plans of so many rows that begin after the head start, where there is one."""
    if fit.head is None:
        return []
    spread = float(fit.trajectory.end.double().std())
    levels = [-np.log(level * spread) for level in HEAD_LEVELS]
    return [c for level in levels for c in candidates(fit.schedule, fit.prediction, rows, level)]

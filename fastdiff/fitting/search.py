"""The best plan of the catalogue for a model: every ODE solver on every grid that the schedule has, in a race.

All are judged on the same samples, a few at first (racing: Maron & Moore 1994). Plans err on the same samples, so the
differences between two of them show early which is better, and a plan is given up once it is behind beyond doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.align_your_steps import SIGMAS, TIMES
from ..plans.catalogue import find_solver, solvers
from ..plans.grid import GRIDS as NAMED
from ..plans.grid import make_grid
from ..plans.plan import Plan
from ..plans.schedule import Points, Schedule

# What to begin with, and what is left where nothing else could be tried.
FIRST_SOLVER, FIRST_GRID = "unipc", "quadratic"
GRIDS = (FIRST_GRID, *(grid for grid in NAMED if grid not in (FIRST_GRID, "ays")))
FROM_A_LEVEL = ("logsnr", "karras", "exponential")  # the grids that can begin lower, after a head start
MIN_SAMPLES, SAMPLE_GROWTH = 8, 3  # all plans are judged on so many; those that stay, on so many times as many next
RIVAL_SAMPLES = 2  # the same where there is a rival
MAX_STANDARD_ERRORS = 3.0  # standard errors behind the leader, on the same samples, at which a plan is given up
MIN_FINALISTS = 8  # plans that run to the end in any case
RIVAL_FINALISTS = 1  # the same where there is a rival
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unipc", {"order": 3}),
    ("heun", {"coordinate": "flow"}),
    ("dpm_2", {"coordinate": "flow"}),
    ("ipndm_v", {"order": 2}),
    ("ipndm", {"order": 2}),
)


@dataclass(frozen=True)
class SolverSpec:
    """A solver of the catalogue, free of its grid. calls: of each row, where some are cheap."""

    solver: str
    schedule: Schedule
    prediction: str
    options: dict[str, Any] = field(default_factory=dict)
    calls: tuple[str, ...] = ()

    def build(self, points: Points) -> Plan:
        """The solver's plan on these points."""
        rows = find_solver(self.solver)[0].rows(self.schedule, points, self.prediction, **self.options)
        end = float(points.alpha[-1]), float(points.sigma[-1])
        plan = Plan(tuple(rows), end, self.prediction, self.solver, "fitted")
        return plan.with_calls(self.calls) if self.calls else plan

    @property
    def name(self) -> str:
        """The solver and its options, for the reader."""
        return " ".join([self.solver, *(f"{name}={value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Candidate:
    """A plan of the catalogue that makes exactly the evaluations asked for."""

    spec: SolverSpec
    grid: str
    points: Points
    plan: Plan

    @property
    def name(self) -> str:
        """The solver, its options, the grid and how many of the rows are cheap, for the reader."""
        cheap = self.spec.calls.count("cheap")
        return f"{self.spec.name}, {self.grid}{f', {cheap}/{self.plan.nfe} cheap' if cheap else ''}"

    def with_calls(self, calls: tuple[str, ...]) -> Candidate:
        """The same with other rows cheap."""
        spec = replace(self.spec, calls=calls)
        return replace(self, spec=spec, plan=spec.build(self.points))


def candidates(schedule: Schedule, prediction: str, evaluations: int, log_snr_min: float = -np.inf) -> list[Candidate]:
    """Every plan of an ODE solver with that many evaluations. log_snr_min: where runs after a head start begin."""
    return distinct(_all(schedule, prediction, evaluations, log_snr_min))


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of each that have the same rows."""
    found, seen = [], set()
    for candidate in candidates:
        # Solvers that are the same on so few steps, and grids that are on this schedule, differ by rounding alone.
        table = np.append(candidate.plan.table.view(np.float64), [row.t for row in candidate.plan.rows])
        key = tuple(float(f"{v:.9g}") for v in table)
        if key not in seen:
            seen.add(key)
            found.append(candidate)
    return found


def first_plan(schedule: Schedule, prediction: str, evaluations: int) -> Plan:
    """The first of the candidates: what there is before anything is judged. Raises ValueError where there is none."""
    first = next(_all(schedule, prediction, evaluations, -np.inf), None)
    if first is None:
        raise ValueError(f"steps: no solver of the catalogue makes {evaluations} evaluations for {prediction} here")
    return first.plan


def _all(schedule: Schedule, prediction: str, evaluations: int, log_snr_min: float) -> Iterator[Candidate]:
    kinds: list[tuple[str, dict[str, Any]]] = [(s.name, {}) for s in solvers() if not s.stochastic and s.order > 0]
    kinds += VARIANTS
    kinds.sort(key=lambda kind: kind != (FIRST_SOLVER, {}))
    for solver, options in kinds:
        spec = SolverSpec(solver, schedule, prediction, options)
        for grid in grids_of(schedule) if log_snr_min == -np.inf else FROM_A_LEVEL:
            candidate = _fitting(spec, grid, evaluations, log_snr_min)
            if candidate is not None:
                yield candidate


def grids_of(schedule: Schedule) -> tuple[str, ...]:
    """All names of grids, and the tables made for schedules of this kind."""
    tables = SIGMAS if schedule.kind == "ve" else TIMES
    return (*GRIDS, *(f"ays:{name}" for name in tables))


def _fitting(spec: SolverSpec, grid: str, evaluations: int, log_snr_min: float) -> Candidate | None:
    """The candidate with exactly that many evaluations, or None where the solver has no such plan."""
    for steps in range(evaluations, 0, -1):
        try:
            points = make_grid(spec.schedule, steps, grid, log_snr_min=log_snr_min)
            if not is_inside(spec.schedule, points):
                return None
            plan = spec.build(points)
        except ValueError:  # this prediction, schedule or number of steps is not for this solver
            continue
        if plan.nfe <= evaluations:
            return Candidate(spec, grid, points, plan) if plan.nfe == evaluations else None
    return None


def is_inside(schedule: Schedule, points: Points) -> bool:
    """Whether the model knows all the times it is asked at; the tables of other schedules may go further."""
    least, most = schedule.log_snr(schedule.t_max), schedule.log_snr(schedule.t_min)
    return bool(points.log_snr[0] >= least - 1e-6 and points.log_snr[-2] <= most + 1e-6)


def race(
    found: list[Candidate],
    judge: Callable[[Sequence[Plan], Tensor], Sequence[Tensor]],
    count: int,
    rival: Tensor | None = None,
) -> list[tuple[Tensor, Candidate]]:
    """The candidates and their distances, in order of the means, over `count` samples or until one was given up.

    judge(plans, places): the distances [n] of each plan's samples at `places` [n]. Those who got furthest come first.
    rival: [count] the distances of a plan besides them. Those that err twice as much on every sample so far are given
    up too, from the second sample on.
    """
    first, finalists = (MIN_SAMPLES, MIN_FINALISTS) if rival is None else (RIVAL_SAMPLES, RIVAL_FINALISTS)
    running: list[tuple[Tensor, Candidate]] = [(torch.empty(0), candidate) for candidate in found]
    lost: list[tuple[Tensor, Candidate]] = []
    until = 0
    while True:
        places = torch.arange(until, min(max(first, SAMPLE_GROWTH * until), count))
        until = len(places) + until
        judged = judge([c.plan for _, c in running], places)
        running = [(torch.cat([d, _distances(new)]), c) for (d, c), new in zip(running, judged, strict=True)]
        running.sort(key=lambda pair: float(pair[0].mean()))
        if until == count:
            return running + lost
        leaders = running[0][0]
        stays = [i < finalists or not (_behind(d, leaders) or _hopeless(d, rival)) for i, (d, _) in enumerate(running)]
        lost = [pair for pair, kept in zip(running, stays, strict=True) if not kept] + lost
        running = [pair for pair, kept in zip(running, stays, strict=True) if kept]


def _distances(each: Tensor) -> Tensor:
    """In double precision, infinite where they are no numbers."""
    return each.double().cpu().nan_to_num(nan=np.inf, posinf=np.inf)


def _behind(each: Tensor, leaders: Tensor) -> bool:
    """Whether a plan's mean distance is larger than the leader's by so much that chance does not explain it."""
    gap = each - leaders
    return not bool(gap.mean() <= MAX_STANDARD_ERRORS * gap.std() / len(gap) ** 0.5)


def _hopeless(each: Tensor, rival: Tensor | None) -> bool:
    """Whether a plan errs twice as much as its rival on every sample so far."""
    return rival is not None and bool((each > 2 * rival[: len(each)].to(each)).all())

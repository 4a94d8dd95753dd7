"""The best plan of the catalogue for a model: every ODE solver on every grid, by rounds of elimination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..catalogue import find_solver, solvers
from ..grid import make_grid
from ..plan import Plan
from ..schedule import Points, Schedule

GRIDS = ("quadratic", "logsnr", "time", "karras")
VARIANTS = (
    ("unipc", {"order": 3}),
    ("heun", {"coordinate": "flow"}),
    ("dpm_2", {"coordinate": "flow"}),
    ("ipndm_v", {"order": 2}),
    ("ipndm", {"order": 2}),
)


@dataclass(frozen=True)
class Base:
    """A solver of the catalogue, free of its grid."""

    solver: str
    schedule: Schedule
    prediction: str
    options: dict[str, object] = field(default_factory=dict)

    def build(self, points: Points) -> Plan:
        """The solver's plan on these points."""
        rows = find_solver(self.solver)[0].build(self.schedule, points, self.prediction, **self.options)
        end = float(points.alpha[-1]), float(points.sigma[-1])
        return Plan(tuple(rows), end, self.prediction, self.solver, "fitted")

    @property
    def name(self) -> str:
        return " ".join([self.solver, *(f"{name}={value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Candidate:
    """A plan of the catalogue that makes exactly the evaluations asked for."""

    base: Base
    grid: str
    points: Points
    plan: Plan

    @property
    def name(self) -> str:
        return f"{self.base.name}, {self.grid}"


def candidates(schedule: Schedule, prediction: str, evaluations: int, log_snr_min: float = -np.inf) -> list[Candidate]:
    """Every plan of an ODE solver with that many evaluations. log_snr_min: where runs after a head start begin."""
    kinds = [(s.name, {}) for s in solvers() if not s.stochastic and s.order > 0] + list(VARIANTS)
    found, seen = [], set()
    for solver, options in kinds:
        base = Base(solver, schedule, prediction, options)
        for grid in GRIDS if log_snr_min == -np.inf else ("logsnr", "karras"):
            candidate = _fitting(base, grid, evaluations, log_snr_min)
            if candidate is None:
                continue
            # Solvers that are the same on so few steps differ by rounding alone.
            table = np.append(candidate.plan.table.view(np.float64), [row.t for row in candidate.plan.rows])
            key = tuple(float(f"{v:.9g}") for v in table)
            if key not in seen:
                seen.add(key)
                found.append(candidate)
    return found


def _fitting(base: Base, grid: str, evaluations: int, log_snr_min: float) -> Candidate | None:
    """The candidate with exactly that many evaluations, or None where the solver has no such plan."""
    for steps in range(evaluations, 0, -1):
        try:
            points = make_grid(base.schedule, steps, grid, log_snr_min=log_snr_min)
            plan = base.build(points)
        except ValueError:  # this prediction, schedule or number of steps is not for this solver
            continue
        if plan.nfe <= evaluations:
            return Candidate(base, grid, points, plan) if plan.nfe == evaluations else None
    return None


def eliminate(
    found: list[Candidate], score: Callable[[Plan, int], float], first: int, last: int
) -> list[tuple[float, Candidate]]:
    """The candidates in order of score, the best ones last judged: a quarter remains as the samples grow fourfold.

    score(plan, samples) is the mean distance over so many samples; `last` is all of them.
    """
    count, ranked = min(first, last), [(np.inf, candidate) for candidate in found]
    done: list[tuple[float, Candidate]] = []
    while True:
        scores = [(score(candidate.plan, count), candidate) for _, candidate in ranked]
        ranked = sorted(((s if s == s else np.inf, c) for s, c in scores), key=lambda pair: pair[0])
        if count >= last:
            return ranked + done
        keep = max(3, len(ranked) // 4)
        done = ranked[keep:] + done
        ranked, count = ranked[:keep], min(4 * count, last)

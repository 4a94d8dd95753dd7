"""A plan of so many steps that the model's samples have converged, as far as a fit needs it."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..plans.build import plan
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .lockstep import drawn_together
from .sources import ModelSource
from .target import FitTarget
from .trajectory import distances

Contestant = tuple[str, dict[str, Any], str]  # solver, its options, grid
# On each of eleven problems the best of them at 20 steps was one of the two that agreed best.
CONTESTANTS: tuple[Contestant, ...] = (
    ("unipc", {"order": 3}, "quadratic"),
    ("adams_moulton", {"order": 4}, "power"),
    ("dpm_solver_3m_exact", {}, "logsnr"),
)
PROBE_SAMPLES = 3
FIRST_STEPS, MAX_STEPS = 20, 640
TOLERANCE = 2e-3  # of the samples' size: the change that counts as none
# Of the least error of the contestants with as few evaluations as the fitted plan has. Rows are fitted to the whole
# run, whose states change up to twice as much as its end does; between its points they are known as well as there.
SMALL = 0.03
BEARABLE = 0.5  # the same where the search ends: by the budget, or because twice as many steps change hardly less
GOING_ON = 0.7  # times the change of half the steps: so much less it is while a solver converges, in the first order
MOST_OF_BUDGET = 0.4  # that the search may come to


class Converged(NamedTuple):
    """A plan whose samples count as converged.

    change: how much they differ from those of half the steps, as a share of their size. runs: states [M + 1, n, ...]
    and data [M, n, ...] of the first samples, where they were kept.
    """

    plan: Plan
    change: float
    runs: tuple[Tensor, Tensor] | None = None

    def is_within(self, tolerance: float | None) -> bool:
        """Whether the samples change little enough for plans of any number of evaluations."""
        return self.change < (TOLERANCE if tolerance is None else tolerance)


def converged(
    target: FitTarget, schedule: Schedule, prediction: str, evaluations: int, tolerance: float | None, memory: int
) -> Converged:
    """A plan that agrees with itself at half the steps, in the median over a few samples.

    It agrees where the samples change by less than `tolerance` of their size; where that is None, by less than 0.002,
    or 3 % of what the best contestant with `evaluations` errs if that is more. Of several solvers and grids the two
    go on that agree best at few steps, then the one of them that changes least with twice as many.

    Where more steps would take more than their share of the budget, or change the samples hardly less, as in a model
    that jumps in t, the plan so far is taken if they change by less than half of that error.

    memory: bytes that runs may take which are kept. Raises ValueError where samples never converge.
    """
    search = _Search(target, schedule, prediction, evaluations if tolerance is None else None, memory)
    running, steps, change = search.running, FIRST_STEPS, math.inf
    while running and steps < MAX_STEPS:
        steps *= 2
        found = []
        for contestant, coarse in running:
            fine = search.fine(contestant, steps, coarse)
            if fine.change < (max(TOLERANCE, SMALL * fine.error) if tolerance is None else tolerance):
                return fine.converged
            found.append((contestant, fine))
        contestant, best = min(found, key=lambda f: f[1].change)
        goes_on = best.change < GOING_ON * change and steps < MAX_STEPS and not search.ends(2 * steps)
        if best.change < BEARABLE * best.error and not goes_on:
            return best.converged
        running, change = [(contestant, best.x)], best.change
    raise ValueError(
        f"tolerance: halving {steps} steps still changes the samples by {change:.2g} of their size, expected less"
        f" than {TOLERANCE if tolerance is None else tolerance:g}; a model in half precision or one that jumps in t may"
        " need a larger tolerance"
    )


class _Fine(NamedTuple):
    """Samples x [n, ...] by many steps. error: the least that a plan of few evaluations errs, if they are converged."""

    x: Tensor
    converged: Converged
    error: float

    @property
    def change(self) -> float:
        """From half the steps."""
        return self.converged.change


class _Search:
    """The samples of contestants, from the first noises.

    running: those that go on, with their samples by few steps. evaluations: of the plan that is to be fitted, or None.
    """

    def __init__(
        self, target: FitTarget, schedule: Schedule, prediction: str, evaluations: int | None, memory: int
    ) -> None:
        self.target, self.schedule, self.prediction, self.memory = target, schedule, prediction, memory
        self.places = torch.arange(min(PROBE_SAMPLES, len(target.noise)))
        able = contestants(schedule, prediction, FIRST_STEPS)
        few = [] if evaluations is None else contestants(schedule, prediction, evaluations)
        plans = [p for _, p in (*able, *few)]
        starts = [target.started(p, self.places, None) for p in plans]
        drawn = drawn_together(ModelSource(target, self.places), plans, starts)
        self.running = _agreeing([(contestant, x) for (contestant, _), x in zip(able, drawn, strict=False)])
        self._unfitted = drawn[len(able) :]

    def fine(self, contestant: Contestant, steps: int, coarse: Tensor) -> _Fine:
        """A contestant with many steps. coarse: its samples by half of them."""
        plan, target = _plan(contestant, self.schedule, self.prediction, steps), self.target
        if target.traced_bytes(plan, len(self.places)) > self.memory:
            x, runs = target.draw(plan, self.places), None
        else:
            parts = [target.trace(plan, part, target.noise.device) for part in target.parts(self.places)]
            states, data = (torch.cat(p, 1) for p in zip(*parts, strict=True))
            x, runs = states[-1], (states, data)
        error = min((_gap(each, x) for each in self._unfitted), default=0.0)
        return _Fine(x, Converged(plan, _gap(coarse, x), runs), error)

    def ends(self, steps: int) -> bool:
        """Whether runs of so many steps would go beyond the search's share of the budget."""
        return self.target.budget.share_after(len(self.places) * steps * self.target.evaluations) > MOST_OF_BUDGET


def _agreeing(drawn: list[tuple[Contestant, Tensor]]) -> list[tuple[Contestant, Tensor]]:
    """The two whose samples are closest to one another; all where there are no more."""
    pairs = itertools.combinations(drawn, 2)
    return list(min(pairs, key=lambda pair: _gap(pair[0][1], pair[1][1]), default=drawn))


def _gap(x: Tensor, exact: Tensor) -> float:
    """The median distance, as a share of the samples' size; infinite where there are none.

    The median, because a few samples near a boundary between two basins never settle.
    """
    gap = float(distances(x, exact).median() / exact.double().square().mean().sqrt())
    return math.inf if math.isnan(gap) else gap


def contestants(schedule: Schedule, prediction: str, steps: int) -> list[tuple[Contestant, Plan]]:
    """Those that can run on this schedule and prediction in so many steps, with their plans."""
    found = []
    for contestant in CONTESTANTS:
        with suppress(ValueError):
            found.append((contestant, _plan(contestant, schedule, prediction, steps)))
    return found


def _plan(contestant: Contestant, schedule: Schedule, prediction: str, steps: int) -> Plan:
    solver, options, grid = contestant
    return plan(solver, schedule, steps, grid=grid, prediction=prediction, **options)

"""What a fit is going to cost, said before it is spent: evaluations of the model, seconds, memory."""

from __future__ import annotations

from typing import NamedTuple

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from . import forward_stage, gauss_newton, references, search, stages
from .target import FitTarget


class Ahead(NamedTuple):
    """Evaluations to come: at least so many, and at most; None where nothing bounds them."""

    least: int
    most: int | None

    def told(self, pace: float) -> str:
        """The same and the seconds that they take, at `pace` seconds each."""
        if self.most is None:
            return f"at least {self.least:,} evaluations, {_duration(pace * self.least)}"
        counts = " to ".join(f"{count:,}" for count in dict.fromkeys(self))
        times = " to ".join(dict.fromkeys(_duration(pace * count) for count in self if count is not None))
        return f"{counts} evaluations, {times}"


def of_search(target: FitTarget, schedule: Schedule, prediction: str) -> Ahead:
    """Of finding the plan whose samples have converged, where the first number of steps that counts is enough."""
    able = len(references.contestants(schedule, prediction))
    steps = references.FIRST_STEPS * (able + 2)  # all, and one of them with twice as many
    return Ahead(min(references.PROBE_SAMPLES, len(target.noise)) * steps * target.evaluations, None)


def of_forward(target: FitTarget, converged: Plan, drawn: int, count: int, steps: int, plans: int) -> Ahead:
    """Of the trajectories of `count` samples, `drawn` of them known, the forward fit on them, and the catalogue's race.

    plans: how many plans of the catalogue there are.
    """
    moves = 2 * steps + len(gauss_newton.RIDGES)  # runs in an iteration: grid and times, then candidates
    iterations = forward_stage.MOVED * forward_stage.MAX_ITERATIONS  # at most, for the better half alone goes on
    few, all_of = min(plans, forward_stage.TRIED) + 1, count * steps
    rounding = 4 * min(count, gauss_newton.NOISE_SAMPLES)
    finalists = min(plans, search.MIN_FINALISTS)
    least = (1 + 2 * forward_stage.MOVED) * all_of + rounding + finalists * count * steps
    most = (few + forward_stage.MOVED + iterations * moves) * all_of + rounding + plans * all_of
    traced = (count - drawn) * converged.nfe
    return Ahead((traced + least) * target.evaluations, (traced + most) * target.evaluations)


def of_full(target: FitTarget, converged: Plan, known: int, fitted: int, steps: int, iterations: int) -> Ahead:
    """Of the references beyond the `known` ones, and the descents on `fitted` samples."""
    short = max(1, iterations // stages.SHORT_SHARE)
    descents = 3 * steps * min(target.batch, fitted) * (3 * short + iterations)
    return Ahead(((len(target.noise) - known) * converged.nfe + descents) * target.evaluations, None)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""What a fit is going to cost, said before it is spent: evaluations of the model, seconds, memory."""

from __future__ import annotations

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from . import convergence, forward_stage, gauss_newton, reuse_stage, stages
from .target import FitTarget


def of_search(target: FitTarget, schedule: Schedule, prediction: str, evaluations: int | None, pace: float) -> str:
    """Of finding the plan whose samples have converged, where the first number of steps that counts is enough.

    evaluations: of the plan that is to be fitted, where its error counts. pace: seconds of an evaluation.
    """
    first = convergence.FIRST_STEPS
    numbers = (first,) if evaluations is None else (first, evaluations)
    plans = [plan for n in numbers for _, plan in convergence.contestants(schedule, prediction, n)]
    runs = sum(plan.nfe for plan in plans) - (len(plans) - 1) + 2 * first  # those that begin alike ask once there
    least = min(convergence.PROBE_SAMPLES, len(target.noise)) * runs * target.evaluations
    return f"at least {least:,} evaluations, {_duration(pace * least)} to find a converged plan"


def of_forward(
    target: FitTarget, converged: Plan, drawn: int, count: int, steps: int, plans: int, reused: bool, pace: float
) -> str:
    """Of the trajectories of `count` samples, `drawn` of them known, the forward fit on them, and the catalogue's race.

    plans: how many plans of the catalogue there are. reused: whether rows without an unconditional call are tried.
    """
    moves = 2 * steps + len(gauss_newton.RIDGES)  # runs in an iteration: grid and times, then candidates
    moved = min(plans, forward_stage.MOVED)
    iterations = moved + (forward_stage.MAX_ITERATIONS - 1) * max(1, moved // 2)
    tried, all_of = min(plans, forward_stage.TRIED), count * steps
    rounding = 4 * min(count, gauss_newton.NOISE_SAMPLES)
    traced = (count - drawn) * converged.nfe
    least = 2 * all_of + traced
    most = (tried + moved + iterations * moves + 1 + plans) * all_of + rounding + traced
    least, most = (part * target.evaluations for part in (least, most))
    most += reuse_stage.most(steps, count) if reused else 0
    return f"{least:,} to {most:,} evaluations, {_duration(pace * least)} to {_duration(pace * most)}"


def of_full(
    target: FitTarget, converged: Plan, known: int, fitted: int, steps: int, iterations: int, pace: float
) -> str:
    """Of the references beyond the `known` ones, and of the descents on `fitted` samples, if there are any."""
    drawn = (len(target.noise) - known) * converged.nfe * target.evaluations
    short = max(1, iterations // stages.SHORT_SHARE)
    descents = 3 * steps * min(target.batch, fitted) * (3 * short + iterations) * target.evaluations
    return (
        f"{drawn:,} evaluations, {_duration(pace * drawn)} for references, then about {descents:,},"
        f" {_duration(pace * descents)} for descents where the model has gradients"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

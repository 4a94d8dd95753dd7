"""What a fit is going to cost, said before it is spent: evaluations of the model, seconds, memory."""

from __future__ import annotations

from typing import NamedTuple

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from . import cheap_rows, convergence, forward_search, gauss_newton, grid_moves, reuse_stage, stages
from .target import FitTarget


class ForwardFit(NamedTuple):
    """What a forward fit has before it.

    samples: whose trajectories it takes, `drawn` of them known. steps: calls of the plan, of `parallel` evaluations
    each. starts: how many plans it begins with. plans: how many the catalogue has. reused: whether rows without an
    unconditional call are tried.
    """

    samples: int
    drawn: int
    steps: int
    parallel: int
    starts: int
    plans: int
    reused: bool


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


def of_forward(target: FitTarget, converged: Plan, ahead: ForwardFit, pace: float) -> str:
    """Of the trajectories, the forward fit on them, and the catalogue's race. pace: seconds of an evaluation."""
    steps, rows, count = ahead.steps, ahead.steps * ahead.parallel, ahead.samples
    tried = min(ahead.starts, forward_search.TRIED)
    moves = grid_moves.most_moves(min(ahead.starts, grid_moves.MOVED), steps + rows)  # of the grid and of times
    rounding = 4 * min(count, gauss_newton.NOISE_SAMPLES)
    traced = (count - ahead.drawn) * converged.nfe
    least = count * (rows + steps) + traced
    most = count * ((tried + moves + 1) * rows + ahead.plans * steps) + rounding + traced
    least, most = (part * target.evaluations for part in (least, most))
    most += reuse_stage.most(steps, count) if ahead.reused else 0
    return f"{least:,} to {most:,} evaluations, {_duration(pace * least)} to {_duration(pace * most)}"


def of_cheap_rows(target: FitTarget, count: int, steps: int, pace: float) -> str:
    """Of the plans with cheap rows, of which there are some, fitted on `count` samples."""
    costs, laid, moves = [], [], []
    for full, cheap in cheap_rows.counts(steps, target.cheap):
        costs.append(full + cheap * target.cheap)
        laid.append(cheap_rows.LAID * len(cheap_rows.patterns(full, cheap)) * costs[-1])
        swaps, shifts = 2 * full, 2 * (full + cheap) + len(gauss_newton.RIDGES)  # runs in an iteration
        moves.append((1 + grid_moves.MAX_ITERATIONS * (swaps + shifts)) * costs[-1])
    least = sum(laid[:2]) + steps + min(costs)
    most = sum(laid) + steps + grid_moves.MOVED * max(moves) + max(costs)
    rounding = 4 * min(count, gauss_newton.NOISE_SAMPLES)
    least, most = (target.evaluations * part for part in (count * least, count * most + rounding))
    ahead = f"{least:,.0f} to {most:,.0f} evaluations, {_duration(pace * least)} to {_duration(pace * most)}"
    return f"{ahead} for plans with cheap rows"


def of_full(
    target: FitTarget, converged: Plan, known: int, fitted: int, steps: int, iterations: int, pace: float
) -> str:
    """Of the references beyond the `known` ones, and of the descents on `fitted` samples, if there are any."""
    drawn = (len(target.noise) - known) * converged.nfe * target.evaluations
    short = max(1, iterations // stages.SHORT_SHARE)
    taken = stages.STARTS * short + stages.LONG * iterations
    descents = 3 * steps * min(target.batch, fitted) * taken * target.evaluations
    return (
        f"{drawn:,} evaluations, {_duration(pace * drawn)} for references, then about {descents:,},"
        f" {_duration(pace * descents)} for descents where the model has gradients"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

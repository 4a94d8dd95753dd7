"""What a fit is going to cost, said before it is spent: evaluations of the model, seconds, memory."""

from __future__ import annotations

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from . import cheap_rows, convergence, forward_stage, gauss_newton, reuse_stage, stages
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
    target: FitTarget,
    converged: Plan,
    drawn: int,
    count: int,
    steps: int,
    starts: int,
    plans: int,
    pace: float,
    parallel: int = 1,
    reused: bool = False,
) -> str:
    """Of the trajectories of `count` samples, `drawn` of them known, the forward fit on them, and the catalogue's race.

    starts: how many plans the forward fit begins with. plans: how many the catalogue has. parallel: evaluations in each
    call of a fitted plan. reused: whether rows without an unconditional call are tried.
    """
    rows = steps * parallel
    tried = min(starts, forward_stage.TRIED)
    moves = forward_stage.most_moves(min(starts, forward_stage.MOVED), steps + rows)  # of the grid and of times
    rounding = 4 * min(count, gauss_newton.NOISE_SAMPLES)
    traced = (count - drawn) * converged.nfe
    least = count * (rows + steps) + traced
    most = count * ((tried + moves + 1) * rows + plans * steps) + rounding + traced
    least, most = (part * target.evaluations for part in (least, most))
    most += reuse_stage.most(steps, count) if reused else 0
    return f"{least:,} to {most:,} evaluations, {_duration(pace * least)} to {_duration(pace * most)}"


def of_cheap_rows(target: FitTarget, count: int, steps: int, pace: float) -> str:
    """Of the plans with cheap rows, of which there are some, fitted on `count` samples."""
    costs, laid, moves = [], [], []
    for full, cheap in cheap_rows.counts(steps, target.cheap):
        costs.append(full + cheap * target.cheap)
        laid.append(cheap_rows.LAID * len(cheap_rows.patterns(full, cheap)) * costs[-1])
        swaps, shifts = 2 * full, 2 * (full + cheap) + len(gauss_newton.RIDGES)  # runs in an iteration
        moves.append((1 + forward_stage.MAX_ITERATIONS * (swaps + shifts)) * costs[-1])
    least = sum(laid[:2]) + steps + min(costs)
    most = sum(laid) + steps + forward_stage.MOVED * max(moves) + max(costs)
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
    descents = 3 * steps * min(target.batch, fitted) * (3 * short + iterations) * target.evaluations
    return (
        f"{drawn:,} evaluations, {_duration(pace * drawn)} for references, then about {descents:,},"
        f" {_duration(pace * descents)} for descents where the model has gradients"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""The stages of a fit, in rising cost. Each leaves its best plan in the journal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..sampling.sample import sample
from .cheap_rows import cheap_rows
from .descent import Descent
from .forward_stage import forward
from .found import Fit, Found, after_head
from .gauss_newton import GaussNewton, noise_floor
from .journal import Trial
from .reuse_stage import reuse
from .search import MIN_FINALISTS, Candidate, race
from .sources import LinearModel, LinearSource
from .table_runs import TableRuns
from .trajectory import distances

EVALUATION_INTERVAL = 10  # iterations of the descent from one evaluation on the held-out samples to the next
NEWTON_SAMPLES = 24  # that Gauss-Newton steps are computed from
LEAST_GAIN = 0.005  # on the held-out samples, that counts
OTHERS = 2  # grids beside the best one, on which descents begin
STARTS, LONG = 2 + OTHERS, 2  # of descents, and how many of them go on to their end
SHORT_SHARE = 5  # of the iterations: one in so many is spent on each start before that
MISTAKEN = 4.0  # times its distance, that a linear model gives a plan at most; 3.9 was the most of 1,000 measured
PATIENCE = 2  # iterations without a gain on the held-out samples, after which they end


@torch.no_grad()
def run_forward(fit: Fit, plans: list[Candidate], starts: list[Candidate] | None, others: int) -> list[Found]:
    """The forward fit, and the catalogue beside it; then plans with cheap rows, where the model has such calls.

    plans: those of the catalogue. starts: of the fit, if others. others: as `forward` has it.
    """
    all_plans = [*plans, *after_head(fit, fit.steps)]
    found = forward(fit, starts or all_plans, others)
    from_catalogue(fit, all_plans, torch.from_numpy(found[0].each))
    if fit.reuse_uncond:
        reuse(fit)
    if fit.target.cheap < 1:
        cheap_rows(fit, found[0])
    return found


def run_full(fit: Fit, found: list[Found], iterations: int) -> None:
    """From what the forward fit found: all numbers together, by differences, then by gradients where there are any.

    Which grid is best after a long descent a short one does not say: the best starts of several grids go on.
    """
    assert fit.journal.best is not None  # as the forward fit leaves it, judged on other samples
    (_, first), fit.journal.best = fit.journal.best, None
    fit.journal.keep(fit.judge_held_out("forward", first), first)
    best = by_differences(fit, found[0])
    if not fit.target.differentiable(best.plan):
        fit.journal.note("descent", "not run: no gradient comes back through the model")
        return
    # Far from the theory's weights the forward fit is good for most samples and may be bad for a few, which only
    # many samples show; its grid with the theory's weights is tried too, and so are forward fits on other grids.
    theory = replace(best, p=np.where(best.space.kinds == "weight", 0.0, best.p))
    starts = [best, theory, *found[1:]]
    short = max(1, iterations // SHORT_SHARE)
    ends = [by_descent(fit, f"start {i + 1}", start, short, start.p) for i, start in enumerate(starts)]
    every: dict[str, tuple[Found, np.ndarray]] = {}
    for start, (_, p) in sorted(zip(starts, ends, strict=True), key=lambda pair: pair[1][0].mean):
        every.setdefault(start.candidate.grid, (start, p))
    going_on = list(every.values())[:LONG]
    for i, (start, p) in enumerate(going_on):
        by_descent(fit, f"descent {i + 1}", start, iterations, p, 1 / (len(going_on) - i))


def from_catalogue(fit: Fit, found: list[Candidate], rival: Tensor) -> None:
    """The best plan of the catalogue on the trajectories' samples. rival: the forward fit's distances there."""
    if fit.journal.finished("catalogue"):
        return
    found = promising(fit, found, float(rival.mean()))
    each, best = race(found, fit.judge_together, len(fit.trajectory), rival)[0]
    trial = fit.trial("catalogue", best.name, each)
    fit.journal.finish("catalogue", [(trial, best.plan)], {})


def promising(fit: Fit, found: list[Candidate], rival: float) -> list[Candidate]:
    """The plans whose distances might be below the rival's, by a linear model around the trajectories.

    It says next to nothing about small differences, but was never found to put a plan at more than MISTAKEN times its
    distance. The MIN_FINALISTS that it puts first are kept in any case.
    """
    linear = LinearModel(LinearSource(fit.trajectory), fit.schedule, fit.prediction)
    noise = fit.target.noise[: len(fit.trajectory)].double()
    guesses = []
    for candidate in found:
        start = noise if fit.head is None else fit.head(noise, candidate.plan)
        x = sample(linear, candidate.plan, start)
        assert isinstance(x, Tensor)  # not a pair: no trajectory was asked for
        guesses.append(float(distances(x, fit.trajectory.end).mean().nan_to_num(nan=np.inf)))
    order = np.argsort(guesses, kind="stable")
    return [found[i] for place, i in enumerate(order) if place < MIN_FINALISTS or guesses[i] < MISTAKEN * rival]


def by_differences(fit: Fit, found: Found) -> Found:
    """All numbers together, by Gauss-Newton steps whose slopes are finite differences."""
    if record := fit.journal.finished("differences"):
        return Found.restored(record["place"], fit.schedule, fit.prediction)
    assert fit.references is not None
    count, space = min(fit.fitted, NEWTON_SAMPLES), found.space
    held = torch.arange(fit.fitted, len(fit.target.noise))
    places = torch.cat([torch.arange(count), held])
    runs = TableRuns(fit.target, space, fit.references[places], places, count, fit.head)
    free = np.arange(space.size)
    newton = GaussNewton(runs, runs.goal[:count], free, space.widths, noise_floor(fit, count), space.reaches)
    p, (here,) = found.p, runs.run([found.p])
    best, waited = (p, here.each[count:]), 0
    while waited < PATIENCE:
        q, there = newton.advance(p, here)
        if newton.mean(there) >= newton.mean(here):
            break
        p, here, waited = q, there, waited + 1
        held_each = here.each[count:]
        if held_each.mean() < best[1].mean() * (1 - LEAST_GAIN):
            best, waited = (p, held_each), 0
            plan = space.plan_of(p)
            trial = fit.trial("differences", plan.solver, held_each)
            fit.journal.keep(trial, plan)
            fit.journal.show(trial)
    done = replace(found, p=best[0], each=best[1])
    trial = fit.trial("differences", done.plan.solver, done.each)
    fit.journal.finish("differences", [(trial, done.plan)], {"place": done.record()})
    return done


def by_descent(
    fit: Fit, stage: str, found: Found, iterations: int, p: np.ndarray, share: float = 1.0
) -> tuple[Trial, np.ndarray]:
    """All numbers together, by Gauss-Newton steps whose slopes are gradients, from random batches of all samples.

    p: where they begin; the prior holds them to those of `found`. share: of what is left of the budget, that they may
    spend. Returns the best trial and its numbers.
    """
    assert fit.references is not None
    space, target, journal = found.space, fit.target, fit.journal
    run = Descent(space, target, fit.references[: fit.fitted], found.p, fit.seed, fit.head, fit.save_memory)
    run.state.q = p / space.widths

    def evaluate_held_out() -> tuple[Trial, np.ndarray]:
        plan = space.plan_of(run.numbers)
        trial = fit.judge_held_out(stage, plan)
        journal.keep(trial, plan)
        return trial, run.numbers

    if saved := journal.load_state(stage):
        run.state, best = saved
        journal.keep(best[0], space.plan_of(best[1]))
    else:
        best = evaluate_held_out()
    before = target.budget.share
    room = share * (1 - before)
    bar = tqdm(total=iterations, initial=run.state.i, unit="step", desc=stage, disable=not fit.progress)
    try:
        while run.state.i < iterations:
            target.budget.check()
            done = max(run.state.i / iterations, (target.budget.share - before) / room)
            if done >= 1:
                break  # the others have the rest of the budget
            run.advance(0.5 * (1 + np.cos(np.pi * min(done, 1.0))))
            bar.update()
            if run.state.i % EVALUATION_INTERVAL == 0 or run.state.i == iterations:
                best = min(best, evaluate_held_out(), key=lambda pair: pair[0].mean)
                bar.set_postfix(held_out=f"{best[0].mean:.4f}")
                journal.save_state(stage, run.state, best)
    finally:
        bar.close()
        journal.report(best[0])
    return best

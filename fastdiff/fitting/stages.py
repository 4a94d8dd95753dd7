"""The stages of a fit, in rising cost. Each leaves its best plan in the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..plans.plan import Plan
from ..plans.schedule import Points, Schedule
from .budget import Exhausted
from .descent import Descent
from .gaussian import GaussianStart
from .gits import dp_grid
from .journal import Journal, Trial
from .references import distances
from .search import Candidate, SolverSpec, candidates, race
from .space import PlanSpace
from .target import FitTarget

MAX_TRACED_SAMPLES = 32  # whose converged runs the dynamic programme sees
HEAD_LEVELS = (20.0, 10.0, 5.0, 3.0, 2.0)  # sigma / alpha over the data's own spread, where a head start may end
EVALUATION_INTERVAL = 10  # iterations from one evaluation on the held-out samples to the next
MAX_STARTS = 3  # plans of the catalogue from which all numbers are fitted, before one of them goes on
MAX_GRID_ITERATIONS = 10  # of the grid and the model's times alone
EVERYTHING = ("grid", "time", "weight")


@dataclass
class Fit:
    """What all stages share. references: [N, ...] the converged samples, of which the last `held_out` only judge."""

    target: FitTarget
    schedule: Schedule
    references: Tensor
    held_out: int
    journal: Journal
    seed: int
    head: GaussianStart | None = None
    save_memory: bool = False
    progress: bool = False

    @property
    def fitted(self) -> int:
        """How many samples are fitted to; they come first."""
        return len(self.references) - self.held_out

    def judge(self, plan: Plan, places: Tensor | None = None) -> Tensor:
        """[n] distances on the held-out samples at `places` [n], counted from the first held-out one; or on all."""
        places = self.fitted + (torch.arange(self.held_out) if places is None else places)
        return distances(self.target.draw(plan, places, self.head), self.references[places])

    def trial(self, stage: str, name: str, plan: Plan) -> Trial:
        """A plan judged on all held-out samples."""
        return self.summary(stage, name, plan, self.judge(plan))

    def summary(self, stage: str, name: str, plan: Plan, each: Tensor) -> Trial:
        """The trial of a plan from its distances [n]."""
        sizes = float(each.mean()), float(each.median()), float(each.square().mean().sqrt())
        return Trial(stage, name, plan.nfe, *sizes, self.target.budget.seconds)


def run(fit: Fit, converged: Plan, steps: int, iterations: int, start_iterations: int) -> None:
    """All stages, the later ones from the best that the earlier ones found."""
    schedule, prediction = fit.schedule, converged.prediction
    found = from_catalogue(fit, schedule, prediction, steps)
    chosen = found[0]
    one_a_step = len(chosen.plan.rows) == len(chosen.points.t) - 1
    if fit.head is None and one_a_step and 2 * steps <= converged.nfe:
        programmed = from_dynamic_programme(fit, chosen.spec, converged, steps)
        chosen = min((chosen, programmed), key=lambda c: float(fit.judge(c.plan).mean()))
    if not fit.target.differentiable(chosen.plan):
        fit.journal.note("descent", "not run: no gradient comes back through the model")
        return
    short = min(start_iterations, iterations)
    by_descent(fit, "grid", chosen, ("grid", "time"), min(MAX_GRID_ITERATIONS, iterations))
    ends = [by_descent(fit, f"start {i + 1}", start, EVERYTHING, short) for i, start in enumerate(found)]
    (_, q), start = min(zip(ends, found, strict=True), key=lambda pair: pair[0][0].mean)
    by_descent(fit, "weights", start, EVERYTHING, iterations, q)


def from_catalogue(fit: Fit, schedule: Schedule, prediction: str, steps: int) -> list[Candidate]:
    """The best plans of the catalogue, each of another solver, after the head start where there is one."""
    if record := fit.journal.finished("catalogue"):
        return [_restored(candidate, schedule, prediction) for candidate in record["candidates"]]
    found = candidates(schedule, prediction, steps)
    if fit.head is not None:
        spread = float(fit.references[: fit.fitted].double().std())
        for level in HEAD_LEVELS:
            found += candidates(schedule, prediction, steps, -np.log(level * spread))
    if not found:
        raise ValueError(f"steps: no solver of the catalogue makes {steps} evaluations for {prediction} here")
    fit.journal.keep(fit.trial("catalogue", found[0].name, found[0].plan), found[0].plan)
    firsts: dict[str, Candidate] = {}
    for _, candidate in _raced(fit, found):
        firsts.setdefault(candidate.spec.name, candidate)
    best = list(firsts.values())[:MAX_STARTS]
    trials = [(fit.trial("catalogue", candidate.name, candidate.plan), candidate.plan) for candidate in best]
    fit.journal.finish("catalogue", trials, {"candidates": [_record(candidate) for candidate in best]})
    return best


def _raced(fit: Fit, found: list[Candidate]) -> list[tuple[float, Candidate]]:
    """`race` on the held-out samples. Where the budget ends it, the best of those that got furthest is kept."""
    each: dict[int, Tensor] = {}

    def judge(plan: Plan, places: Tensor) -> Tensor:
        new = fit.judge(plan, places)
        each[id(plan)] = torch.cat([each.get(id(plan), new[:0]), new])
        return new

    try:
        return race(found, judge, fit.held_out)
    except Exhausted:
        furthest = max(map(len, each.values()), default=0)
        judged = [(each[id(c.plan)], c) for c in found if len(each.get(id(c.plan), ())) == furthest > 0]
        if judged:
            distances, best = min(judged, key=lambda pair: float(pair[0].mean().nan_to_num(nan=np.inf)))
            trial = fit.summary("catalogue", best.name, best.plan, distances)
            fit.journal.finish_early(trial, best.plan)
        raise


def from_dynamic_programme(fit: Fit, spec: SolverSpec, converged: Plan, steps: int) -> Candidate:
    """A solver on the points of the converged run between which first-order steps err least."""
    if record := fit.journal.finished("gits"):
        return _restored(record, spec.schedule, spec.prediction)
    places = torch.arange(min(MAX_TRACED_SAMPLES, fit.fitted, fit.target.batch))
    chosen = dp_grid(*fit.target.trace(converged, places), steps)
    candidate = Candidate(spec, "dynamic programme", chosen, spec.build(chosen))
    trial = fit.trial("gits", candidate.name, candidate.plan), candidate.plan
    fit.journal.finish("gits", [trial], _record(candidate))
    return candidate


def by_descent(
    fit: Fit, stage: str, candidate: Candidate, kinds: tuple[str, ...], iterations: int, q: np.ndarray | None = None
) -> tuple[Trial, np.ndarray]:
    """The best plan that Gauss-Newton steps find from a candidate: its trial and its numbers in units of their widths.

    q: the numbers where they begin.
    """
    space = PlanSpace(candidate.spec.build, candidate.spec.schedule, candidate.points)
    target, journal = fit.target, fit.journal
    free = np.isin(space.kinds, kinds)
    run = Descent(space, target, fit.references[: fit.fitted], free, fit.seed, fit.head, fit.save_memory)

    def evaluate_held_out() -> tuple[Trial, np.ndarray]:
        plan = space.plan_of(run.numbers)
        trial = fit.trial(stage, plan.solver, plan)
        journal.keep(trial, plan)
        return trial, run.state.q.copy()

    if saved := journal.load_state(stage):
        run.state, best = saved
        journal.keep(best[0], space.plan_of(best[1] * space.widths))
    else:
        run.state.q = run.state.q if q is None else q.copy()
        best = evaluate_held_out()
    before = target.budget.share
    bar = tqdm(total=iterations, initial=run.state.i, unit="step", desc=stage, disable=not fit.progress)
    try:
        while run.state.i < iterations:
            target.budget.check()
            done = max(run.state.i / iterations, (target.budget.share - before) / (1 - before))
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


def _record(candidate: Candidate) -> dict[str, object]:
    """What JSON needs to make the candidate again."""
    points = [v.tolist() for v in candidate.points]
    spec = candidate.spec
    return {"solver": spec.solver, "options": spec.options, "grid": candidate.grid, "points": points}


def _restored(record: dict[str, Any], schedule: Schedule, prediction: str) -> Candidate:
    spec = SolverSpec(record["solver"], schedule, prediction, record["options"])
    points = Points(*(np.array(v) for v in record["points"]))
    return Candidate(spec, record["grid"], points, spec.build(points))

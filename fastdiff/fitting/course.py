"""The course of a fit: the order of what is done, and what is said and kept on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from . import cost
from .budget import Exhausted
from .convergence import Converged
from .folder import Folder
from .found import Fit, Found
from .gaussian import GaussianStart
from .journal import Journal
from .references import ReferenceSampler, check_model
from .search import Candidate, candidates, first_plan
from .stages import run_forward, run_full
from .target import FitTarget
from .tracing import Tracer

LEAST_RUNS = 12  # of the plan to be fitted, that a budget should leave for each trajectory


@dataclass
class Course:
    """A fit of a plan of `steps` evaluations, as `fastdiff.fit` was asked for it.

    kept: the folder. traced: how many samples have their trajectories drawn. held_out: how many of the last samples
    only judge a full fit. memory: bytes.
    """

    target: FitTarget
    schedule: Schedule
    prediction: str
    steps: int
    kept: Folder
    journal: Journal
    full: bool
    traced: int
    held_out: int
    iterations: int
    tolerance: float | None
    memory: int
    head: GaussianStart | int | None
    seed: int
    save_memory: bool
    progress: bool
    reuse_uncond: bool

    def run(self) -> Plan:
        """The best plan that was found until the end or until the budget was spent."""
        budget, converged = self.target.budget, None
        try:
            references = self._begin()
            converged = self._converged(references)
            self._fit(converged, references)
            self.journal.note("total", f"{budget.evaluations:,} evaluations, {budget.seconds:.0f} s")
        except Exhausted:
            spent = f"{budget.seconds:.0f} s and {budget.evaluations} evaluations"
            self.journal.note("budget", f"spent after {spent}")
            if self.journal.best is None and converged is None:
                raise RuntimeError(
                    f"budget: {spent} were spent before the model's samples converged; give it more"
                ) from None
        if self.journal.best is None:
            return first_plan(self.schedule, self.prediction, self.steps)
        return self.journal.best[1]

    def _begin(self) -> ReferenceSampler:
        """The references, once the model and the folder are found sound."""
        target, kept, ranks = self.target, self.kept, self.target.ranks
        fingerprint = check_model(target, self.schedule, self.prediction)
        ranks.require_same(model=fingerprint)
        self._pace = target.budget.lap()
        first_plan(self.schedule, self.prediction, self.steps)  # an error before more is spent, where there is none
        noise, head = digest(target.noise), self.head
        kept.claim(schedule=self.schedule.knots(), prediction=self.prediction, noise=noise, model=fingerprint)
        self.journal.folder.claim(
            shared=kept.fit, steps=self.steps, method="full" if self.full else "forward", held_out=self.held_out,
            batch=target.batch, seed=self.seed, head=digest(head.mean) if isinstance(head, GaussianStart) else head,
        )  # fmt: skip
        references = ReferenceSampler(target, kept)
        references.require_sound(self.journal.folder)
        return references

    def _converged(self, references: ReferenceSampler) -> Converged:
        if not references.is_known:
            few = self.steps if self.tolerance is None else None
            ahead = cost.of_search(self.target, self.schedule, self.prediction, few, self._pace)
            self.journal.note("cost", ahead)
        given = self.schedule, self.prediction, self.steps, self.tolerance, self.memory
        found = references.find_plan(*given)
        self.journal.note(
            "converged", f"{found.plan.nfe} steps, which change samples by {found.change:.2g} of their size"
        )
        return found

    def _fit(self, converged: Converged, references: ReferenceSampler) -> None:
        plans, pace = candidates(self.schedule, self.prediction, self.steps), self.target.budget.lap()
        tracer = Tracer(self.target, converged, self.traced, self.kept, self.memory)
        self._limit(tracer)
        with tracer:
            if not self.journal.folder.has("catalogue.json"):
                counts = tracer.known, tracer.count, self.steps, len(plans)
                ahead = cost.of_forward(self.target, converged.plan, *counts, self.reuse_uncond, pace)
                self.journal.note("cost", f"{ahead}; {tracer.told}")
            task, found = self._forward(tracer, plans)
            if not self.full:
                return
            if not self.journal.folder.has("differences.json"):
                counts = (tracer.count, task.fitted, self.steps, self.iterations)
                self.journal.note("cost", cost.of_full(self.target, converged.plan, *counts, self.target.budget.lap()))
            task.references = references.draw_references(converged.plan, task.trajectory.end, task.progress)
            run_full(task, found, self.iterations)

    def _limit(self, tracer: Tracer) -> None:
        """Have as many trajectories drawn as the budget has room for, beside what is done with them."""
        each = (tracer.plan.nfe + LEAST_RUNS * self.steps) * self.target.evaluations
        room = max(1, tracer.known, int(min(self.target.budget.left / each, self.traced)))
        if room < self.traced:
            self.journal.note("budget", f"has room for {room} of {self.traced} trajectories")
            tracer.count = room

    def _forward(self, tracer: Tracer, plans: list[Candidate]) -> tuple[Fit, Found]:
        trajectory, head = tracer.draw(), self.head
        if isinstance(head, int):
            head = GaussianStart.estimate(trajectory.end, self.schedule, head)
            self.journal.folder.write("head.safetensors", head.save)
        task = Fit(
            self.target, self.schedule, self.prediction, self.steps, trajectory, self.journal, held_out=self.held_out,
            seed=self.seed, head=head, save_memory=self.save_memory, progress=self.progress,
            reuse_uncond=self.reuse_uncond,
        )  # fmt: skip
        return task, run_forward(task, plans)


def digest(x: Tensor) -> str:
    """A name for the numbers of a tensor."""
    return hashlib.sha256(x.detach().double().cpu().numpy().tobytes()).hexdigest()[:16]

"""The course of a fit: the order of what is done, and what is said and kept on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from ..sampling.gaussian import GaussianStart
from . import cheap_calls, cheap_rows, cost
from .budget import Exhausted
from .convergence import Converged
from .folder import Folder
from .found import Fit, Found
from .journal import Journal
from .parallel import parallel_candidates
from .references import ReferenceSampler, check_model
from .search import Candidate, candidates, first_plan
from .stages import OTHERS, run_forward, run_full
from .target import FitTarget
from .tracing import Tracer

LEAST_RUNS = 12  # of the plan to be fitted, that a budget should leave for each trajectory


@dataclass
class Course:
    """A fit of a plan of `steps` calls, of `parallel` evaluations each, as `fastdiff.fit` was asked for it.

    kept: the folder. traced: how many samples have their trajectories drawn. held_out: how many of the last samples
    only judge a full fit. memory: bytes. cheap_calls: whether the model has such. cheap: what one costs, if given.
    """

    target: FitTarget
    schedule: Schedule
    prediction: str
    steps: int
    kept: Folder
    journal: Journal
    parallel: int
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
    cheap_calls: bool
    cheap: float | None
    reuse_uncond: bool

    @property
    def rows(self) -> int:
        """Of the plan: its evaluations."""
        return self.steps * self.parallel

    def run(self) -> Plan:
        """The best plan that was found until the end or until the budget was spent."""
        budget, converged, ranks = self.target.budget, None, self.target.ranks
        if ranks.count > 1:
            self.journal.note("ranks", f"{ranks.count} processes share the model's calls; the first one reports")
        try:
            references = self._begin()
            converged = self._converged(references)
            self._fit(converged, references)
            self.journal.note("total", f"{budget.evaluations:,.0f} evaluations, {budget.seconds:.0f} s")
        except Exhausted:
            spent = f"{budget.seconds:.0f} s and {budget.evaluations:.0f} evaluations"
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
        if self.parallel > 1 and target.one_time:
            raise ValueError("parallel: the model reads one time for all samples of a call, those are told several")
        partial: dict[str, object] = {}
        if self.cheap_calls:
            target.cheap = self.cheap or target.cheap
            partial = cheap_calls.told(target, self.schedule, self.prediction, self.cheap)
        ranks.require_same(model=fingerprint, **partial)
        self._pace = target.budget.lap()
        first_plan(self.schedule, self.prediction, self.steps)  # an error before more is spent, where there is none
        noise, head = digest(target.noise), self.head
        kept.claim(schedule=self.schedule.knots(), prediction=self.prediction, noise=noise, model=fingerprint)
        self.journal.folder.claim(
            shared=kept.fit, steps=self.steps, method="full" if self.full else "forward", held_out=self.held_out,
            batch=target.batch, seed=self.seed, head=digest(head.mean) if isinstance(head, GaussianStart) else head,
            **partial,
        )  # fmt: skip
        references = ReferenceSampler(target, kept)
        references.require_sound(self.journal.folder)
        return references

    def _converged(self, references: ReferenceSampler) -> Converged:
        if not references.is_known:
            few = self.rows if self.tolerance is None else None
            ahead = cost.of_search(self.target, self.schedule, self.prediction, few, self._pace)
            self.journal.note("cost", ahead)
        if self.cheap_calls and self.cheap is None:
            self.target.cheap = cheap_calls.kept_share(self.target, self.schedule, self.prediction, self.journal)
        given = self.schedule, self.prediction, self.rows, self.tolerance, self.memory
        found = references.find_plan(*given)
        self.journal.note(
            "converged", f"{found.plan.nfe} steps, which change samples by {found.change:.2g} of their size"
        )
        return found

    def _fit(self, converged: Converged, references: ReferenceSampler) -> None:
        plans, pace = candidates(self.schedule, self.prediction, self.steps), self.target.budget.lap()
        starts = None
        if self.parallel > 1:
            starts = parallel_candidates(self.schedule, self.prediction, self.steps, self.parallel)
        tracer = Tracer(self.target, converged, self.traced, self.kept, self.memory)
        self._limit(tracer)
        with tracer:
            if not self.journal.folder.has("catalogue.json"):
                ahead = cost.ForwardFit(
                    samples=tracer.count, drawn=tracer.known, steps=self.steps, parallel=self.parallel,
                    starts=len(starts or plans), plans=len(plans), reused=self.reuse_uncond,
                )  # fmt: skip
                told = cost.of_forward(self.target, converged.plan, ahead, pace)
                self.journal.note("cost", f"{told}; {tracer.told}")
            if cheap_rows.counts(self.steps, self.target.cheap) and not self.journal.folder.has("cheap rows.json"):
                self.journal.note("cost", cost.of_cheap_rows(self.target, tracer.count, self.steps, pace))
            task, found = self._forward(tracer, plans, starts)
            if not self.full:
                return
            if not self.journal.folder.has("differences.json"):
                counts = (tracer.count, task.fitted, self.rows, self.iterations)
                self.journal.note("cost", cost.of_full(self.target, converged.plan, *counts, self.target.budget.lap()))
            task.references = references.draw_references(converged.plan, task.trajectory.end, task.progress)
            run_full(task, found, self.iterations)

    def _limit(self, tracer: Tracer) -> None:
        """Have as many trajectories drawn as the budget has room for, beside what is done with them."""
        each = (tracer.plan.nfe + LEAST_RUNS * self.rows) * self.target.evaluations
        room = max(1, tracer.known, int(min(self.target.budget.left / each, self.traced)))
        if room < self.traced:
            self.journal.note("budget", f"has room for {room} of {self.traced} trajectories")
            tracer.count = room

    def _forward(
        self, tracer: Tracer, plans: list[Candidate], starts: list[Candidate] | None
    ) -> tuple[Fit, list[Found]]:
        trajectory, head = tracer.draw(), self.head
        if isinstance(head, int):
            head = GaussianStart.estimate(trajectory.end, self.schedule, head)
            self.journal.folder.write("head.safetensors", head.save)
        task = Fit(
            self.target, self.schedule, self.prediction, self.steps, trajectory, self.journal, held_out=self.held_out,
            seed=self.seed, head=head, save_memory=self.save_memory, progress=self.progress,
            reuse_uncond=self.reuse_uncond,
        )  # fmt: skip
        return task, run_forward(task, plans, starts, OTHERS if self.full else 0)


def digest(x: Tensor) -> str:
    """A name for the numbers of a tensor."""
    return hashlib.sha256(x.detach().double().cpu().numpy().tobytes()).hexdigest()[:16]

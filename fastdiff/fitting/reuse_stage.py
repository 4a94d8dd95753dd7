"""Plans of more rows for the same network evaluations: some of their rows make no unconditional call.

Which ones is found row by row: of the rows that still make the call, the one gives it up whose plan is best after its
regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .forward import Fitted
from .forward_stage import MAX_ITERATIONS, SHAPES, Search, folds_of, setting_of
from .found import Fit, Found
from .gauss_newton import RIDGES
from .reused_rows import ReuseForward
from .search import Candidate, candidates

EXTRA = (1, 2)  # rows more than evaluations with both outputs were asked for; each takes the calls of two rows
TRIED, PATTERNS = 12, 3  # settings that the model is asked about, and those in which rows give up their calls
MOVED = 2  # of those, whose grids and times are moved
LEAST_CALLS = 2  # unconditional ones that a plan makes


def reuse(fit: Fit) -> None:
    """Leave the best such plan in the journal, where it is better than what is there."""
    if fit.journal.finished("reuse"):
        return
    search = _ReuseSearch(fit)
    found = [f for extra in EXTRA for f in search.patterned(extra)]
    if not found:
        return
    best = search.complete(search.moved(sorted(found, key=lambda f: f.mean)[:MOVED]))
    fit.journal.finish("reuse", [(fit.trial("reuse", best.name, best.each), best.plan)], {})


def most(steps: int, count: int) -> int:
    """Network evaluations of `count` samples that this takes at most. steps: rows with both calls."""
    moves = 2 * (steps + max(EXTRA)) + len(RIDGES)  # runs in an iteration: grid and times, then candidates
    iterations = MOVED + (MAX_ITERATIONS - 1) * max(1, MOVED // 2)
    patterned = [PATTERNS * 2 * extra * (steps + extra - 1) for extra in EXTRA if steps - extra >= LEAST_CALLS]
    tried = 2 * sum(TRIED * (steps + extra) for extra in EXTRA if steps - extra >= LEAST_CALLS)
    # Every run of a pattern is at most one of `steps` rows with both calls, and one more for each extra row.
    run = 2 * (steps + max(EXTRA))
    return count * (tried + run * (sum(patterned) + MOVED + iterations * moves + 1))


class _ReuseSearch(Search):
    """The regressions of plans with such rows."""

    stage = "reuse"

    def __init__(self, fit: Fit) -> None:
        super().__init__(fit)
        self.model = ReuseForward(fit.target, fit.trajectory, fit.starts, folds_of(len(fit.trajectory)))

    def patterned(self, extra: int) -> list[Found]:
        """The best settings of so many rows more, each with the rows that have given up their calls."""
        rows = self.fit.steps + extra
        plans = candidates(self.fit.schedule, self.fit.prediction, rows)
        if not plans or self.fit.steps - extra < LEAST_CALLS:
            return []
        starts = self._starts(plans, rows)
        for _ in range(2 * extra):
            starts = self._given_up(starts)
        return starts

    def _starts(self, plans: list[Candidate], rows: int) -> list[Found]:
        """The best settings of those plans, as far as they are known from rows that make all calls."""
        shapes = [c for c in plans if c.spec.solver in SHAPES] or plans
        found = [replace(Found.at(c), calls=(True,) * rows) for c in shapes]
        guesses = self.linear.run([setting_of(f) for f in found])
        order = sorted(range(len(found)), key=lambda k: guesses[k].mean)
        few = [found[k] for k in order[:TRIED]]
        return self._sorted(few, self._fitted(few))[:PATTERNS]

    def _given_up(self, found: Sequence[Found]) -> list[Found]:
        """Each with one call less, where that harms least."""
        tried = [[_without(f, i) for i in range(1, len(f.calls)) if f.calls[i]] for f in found]
        fitted = iter(self._fitted([f for each in tried for f in each]))
        return [min((replace(f, each=next(fitted).each) for f in each), key=lambda f: f.mean) for each in tried]

    def _fitted(self, found: Sequence[Found]) -> list[Fitted]:
        return self.model.run([setting_of(f) for f in found])


def _without(found: Found, row: int) -> Found:
    return replace(found, calls=tuple(called and i != row for i, called in enumerate(found.calls)))

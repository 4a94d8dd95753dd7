"""Plans of one row more for the same network evaluations: two of their rows make no unconditional call.

Which ones is found one after the other: of the rows that make the call, the one gives it up whose plan is best after
its regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .forward import Fitted
from .forward_search import Search, folds_of
from .forward_stage import starts_of
from .found import Fit, Found
from .grid_moves import most_moves, setting_of
from .reused_rows import ReuseForward
from .search import Candidate, candidates

GIVEN_UP = 2  # unconditional calls, for the two evaluations of a row more
TRIED, PATTERNS = 12, 3  # settings that the model is asked about, and those in which rows give up their calls
MOVED = 2  # of those, whose grids and times are moved
LEAST_STEPS = 3  # so that two rows make the call


def reuse(fit: Fit) -> None:
    """Leave the best such plan in the journal, where it is better than what is there."""
    if fit.journal.finished("reuse"):
        return
    plans = candidates(fit.schedule, fit.prediction, fit.steps + 1)
    if not plans or fit.steps < LEAST_STEPS:
        return
    search = _ReuseSearch(fit)
    found = search.starts(plans)
    for _ in range(GIVEN_UP):
        found = search.given_up(found)
    best = search.complete(search.moved(sorted(found, key=lambda f: f.mean)[:MOVED]))
    fit.journal.finish("reuse", [(fit.trial("reuse", best.name, best.each), best.plan)], {})


def most(steps: int, count: int) -> int:
    """Network evaluations of `count` samples that this takes at most. steps: rows with both calls."""
    if steps < LEAST_STEPS:
        return 0
    runs = TRIED + GIVEN_UP * PATTERNS * steps + most_moves(MOVED, 2 * (steps + 1)) + 1
    return runs * 2 * (steps + 1) * count


class _ReuseSearch(Search):
    """The regressions of plans with such rows."""

    def __init__(self, fit: Fit) -> None:
        super().__init__(fit, "reuse")
        self.model = ReuseForward(fit.target, fit.trajectory, fit.starts, folds_of(len(fit.trajectory)))

    def starts(self, plans: list[Candidate]) -> list[Found]:
        """The best settings of those plans, as far as they are known from rows that make all calls."""
        found = [replace(f, calls=(True,) * f.candidate.plan.nfe) for f in starts_of(plans)]
        few = self.by_guess(found)[:TRIED]
        return self._sorted(few, self._fitted(few))[:PATTERNS]

    def given_up(self, found: Sequence[Found]) -> list[Found]:
        """Each with one call less, where that harms least."""
        tried = [[_without(f, i) for i in range(1, len(f.calls)) if f.calls[i]] for f in found]
        fitted = iter(self._fitted([f for each in tried for f in each]))
        return [min((replace(f, each=next(fitted).each) for f in each), key=lambda f: f.mean) for each in tried]

    def _fitted(self, found: Sequence[Found]) -> list[Fitted]:
        return self.model.run([setting_of(f) for f in found])


def _without(found: Found, row: int) -> Found:
    return replace(found, calls=tuple(called and i != row for i, called in enumerate(found.calls)))

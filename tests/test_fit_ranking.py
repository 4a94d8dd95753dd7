"""Which settings a forward fit asks the model about, and in which order it goes on with them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from mixtures import SCHEDULE

from fastdiff.fitting import forward_search
from fastdiff.fitting.forward_search import FIRST_TRIED, TRIED, Search
from fastdiff.fitting.forward_stage import starts_of
from fastdiff.fitting.found import Found
from fastdiff.fitting.search import candidates


class Judged(Search):
    """A search whose settings err as they are told to, and whose linear model puts those that err least last."""

    def __init__(self, errors: dict[int, float]) -> None:
        self.errors, self.asked = errors, list[list[float]]()
        self.model = SimpleNamespace(run=self._run)

    def _run(self, settings):
        self.asked.append([self.errors[id(s.space)] for s in settings])
        return [SimpleNamespace(mean=e, each=np.array([e])) for e in self.asked[-1]]

    def by_guess(self, starts):
        return sorted(starts, key=lambda f: -self.errors[id(f.space)])

    def _keep(self, found, fitted):
        pass


@pytest.fixture(scope="module")
def starts() -> list[Found]:
    return starts_of(candidates(SCHEDULE, "sample", 5))


def judged(starts: list[Found]) -> Judged:
    """Errors that depend on the grid, and a little on the solver."""
    grids = list(np.random.permutation(sorted({f.candidate.grid for f in starts})))
    seen = Counter[str]()
    errors = {}
    for f in starts:
        errors[id(f.space)] = 2.0 ** grids.index(f.candidate.grid) * (1 + 0.02 * seen[f.candidate.grid])
        seen[f.candidate.grid] += 1
    return Judged(errors)


def test_the_best_grid_is_found_though_the_linear_model_puts_it_last(starts):
    search = judged(starts)
    ranked = search.ranked(starts)
    best = min(starts, key=lambda f: search.errors[id(f.space)])
    assert ranked[0].candidate.grid == best.candidate.grid
    grids = {f.candidate.grid for f in starts}
    assert [f.candidate.grid for f in ranked[: len(grids)]] == list(dict.fromkeys(f.candidate.grid for f in ranked))
    assert {f.candidate.grid for f in ranked} == grids


def test_the_better_a_grid_the_more_of_its_solvers_are_tried_and_no_more_than_allowed_in_all(starts):
    search = judged(starts)
    counts = Counter(f.candidate.grid for f in search.ranked(starts))
    errors = {f.candidate.grid: search.errors[id(f.space)] for f in starts}
    in_order = [counts[grid] for grid in sorted(errors, key=errors.get)]
    assert in_order == sorted(in_order, reverse=True)
    assert in_order[0] > 2
    asked = [e for part in search.asked for e in part]
    assert len(asked) == len(set(asked)) == sum(in_order) <= TRIED
    first, second = FIRST_TRIED
    assert [len(part) for part in search.asked[:2]] == [first, min(second, len(errors)) - first]


def test_few_settings_are_all_tried(starts, monkeypatch):
    few = starts[:5]
    assert {id(f.candidate) for f in judged(few).ranked(few)} == {id(f.candidate) for f in few}
    monkeypatch.setattr(forward_search, "TRIED", 3)
    assert len(judged(few).ranked(few)) == 3

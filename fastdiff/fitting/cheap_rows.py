"""Plans with cheap rows, where the model has cheap calls: which rows are full and which cheap, within a cost.

The outputs of cheap calls are outputs like others: the regression learns how far to trust them. So every pattern of
calls is judged after its regression.
"""

from __future__ import annotations

import math

from . import grid_moves
from .forward_search import Search
from .forward_stage import starts_of
from .found import Fit, Found, after_head
from .search import candidates

Calls = tuple[str, ...]

STAGE = "cheap rows"

MOST_CHEAP = 2  # rows for each full one
SPREADS = (0.5, 1.0, 2.0)  # full rows dense at the end, even, dense at the beginning
LAID = 4  # solvers and grids that each pattern is tried with
HOPELESS = 1.2  # times the distance of a plan of full rows, both before they are moved, from which on it is not


def counts(cost: int, cheap: float) -> list[tuple[int, int]]:
    """(full rows, cheap rows) of plans that cost no more, in full evaluations, than `cost`, but have more rows.

    cheap: what a cheap row costs. For each number of full rows as many cheap ones as that allows, and no more than
    MOST_CHEAP for each; fewer full rows would then leave some of the cost unspent.
    """
    found = []
    for full in range(cost - 1, 0, -1):
        count = math.floor((cost - full) / cheap + 1e-9)
        if full + min(count, MOST_CHEAP * full) > cost:
            found.append((full, min(count, MOST_CHEAP * full)))
        if count >= MOST_CHEAP * full:
            break
    return found


def patterns(full: int, cheap: int) -> list[Calls]:
    """Calls of so many rows: the first is full, the others even or denser towards one of the ends."""
    rows = full + cheap
    found = []
    for spread in SPREADS:
        places: list[int] = []
        for j in range(full):
            place = math.floor(rows * (j / full) ** spread)
            least = places[-1] + 1 if places else 0
            places.append(min(max(place, least), rows - full + j))
        found.append(_calls(rows, places))
    return list(dict.fromkeys(found))


def neighbours(calls: Calls) -> list[Calls]:
    """The patterns in which one full row, not the first, has changed places with a cheap one beside it."""
    pairs = [i for i in range(1, len(calls) - 1) if calls[i] != calls[i + 1]]
    return [(*calls[:i], calls[i + 1], calls[i], *calls[i + 2 :]) for i in pairs]


def cheap_rows(fit: Fit, full_rows: Found) -> None:
    """The best plan with cheap rows that costs no more than `fit.steps` full evaluations, into the journal.

    full_rows: the best setting without any.
    """
    journal = fit.journal
    if journal.finished(STAGE):
        return
    search, found = Search(fit, STAGE), list[Found]()
    for full, cheap in counts(fit.steps, fit.target.cheap):
        starts = _laid(search, full, cheap)
        laid = search.judged(starts) if starts else []  # the catalogue may have no plan of so many rows here
        if not laid or (found and laid[0].mean >= found[0].mean):
            break
        found = sorted([*laid, *found], key=lambda f: f.mean)
    if not found:
        journal.note(STAGE, f"not tried: at {fit.target.cheap:.2f} of a full one each, no plan has more rows")
        return
    best, (beside,) = found[0], search.judged([Found.at(full_rows.candidate)])
    if best.mean < HOPELESS * beside.mean:
        best = search.moved([_swapped(search, f) for f in found[: grid_moves.MOVED]])
    best = search.complete(best)
    journal.finish(STAGE, [(fit.trial(STAGE, best.name, best.each), best.plan)], {})


def _laid(search: Search, full: int, cheap: int) -> list[Found]:
    """So many full and cheap rows in several patterns, each on the grids that would be best if all were full."""
    fit, rows = search.fit, full + cheap
    starts = starts_of(candidates(fit.schedule, fit.prediction, rows) + after_head(fit, rows))
    return [_with_calls(f, calls) for f in search.guessed(starts)[:LAID] for calls in patterns(full, cheap)]


def _swapped(search: Search, found: Found) -> Found:
    """The setting after swaps of a full row with a cheap one beside it, the best one each time, while they gain."""
    for _ in range(grid_moves.MAX_ITERATIONS):
        others = neighbours(found.candidate.spec.calls)
        if not others:
            break
        best = search.judged([_with_calls(found, calls) for calls in others])[0]
        if not best.mean < (1 - grid_moves.LEAST_GAIN) * found.mean:
            break
        found = best
    return found


def _with_calls(found: Found, calls: Calls) -> Found:
    return Found.at(found.candidate.with_calls(calls))


def _calls(rows: int, full: list[int]) -> Calls:
    return tuple("full" if i in full else "cheap" for i in range(rows))

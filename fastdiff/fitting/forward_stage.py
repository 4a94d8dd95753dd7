"""The forward fit: grids and solvers of the catalogue judged after their rows are fitted, the best ones moved on."""

from __future__ import annotations

from . import grid_moves
from .budget import Exhausted
from .forward_search import Search
from .found import Fit, Found
from .search import Candidate

# One of each shape that rows come in: data, noise and velocity as what is interpolated, one register and two.
SHAPES = (
    "adams_moulton",
    "dpm_solver_2m",
    "deis_log_rho",
    "lms",
    "ipndm",
    "gradient_estimation",
    "unipc",
    "midpoint",
    "dpm_solver_2s",
    "heun",
    "dpm_2",
    "ddim",
)


def forward(fit: Fit, found: list[Candidate], others: int = 0) -> list[Found]:
    """The best plan that regression finds, then the best ones on so many other grids, which have not been moved.

    The best so far is in the journal at any time.
    """
    if record := fit.journal.finished("forward"):
        return [Found.restored(r, fit.schedule, fit.prediction) for r in (record["place"], *record.get("others", ()))]
    search = Search(fit)
    starts = starts_of(found)
    try:
        ranked = search.ranked(starts)
        best = search.complete(search.moved(ranked[: grid_moves.MOVED]))
    except Exhausted:
        search.keep_linear(starts)
        raise
    trial = fit.trial("forward", best.name, best.each)
    elsewhere = [f for f in ranked if f.candidate.grid != best.candidate.grid]
    rest = [search.complete(f) for f in elsewhere[:others]]
    fit.journal.finish("forward", [(trial, best.plan)], {"place": best.record(), "others": [f.record() for f in rest]})
    return [best, *rest]


def starts_of(found: list[Candidate]) -> list[Found]:
    """Those of the candidates that a forward fit begins with."""
    return [Found.at(c) for c in found if c.spec.solver in SHAPES] or [Found.at(c) for c in found]

"""The tables of bench/quality.py that compare fitted plans with the best unfitted ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np

from .markdown import number, table
from .store import Store

UNFITTED = ("catalogue", "peers")
# What the authors' own code offers, measured by the same solver of the catalogue: solver -> first letters of the grids.
OFFERED = {
    **dict.fromkeys(("dpm_solver_2s", "dpm_solver_3s", "dpm_solver_2m", "dpm_solver_3m", "dpm_solver_v3"), "tql"),
    **dict.fromkeys(("ddim", "dpmpp_2s", "dpmpp_3s", "dpmpp_2m", "dpmpp_3m", "unipc", "unipc, order 3"), "tql"),
    **dict.fromkeys(("deis", "deis_rhoab", "ipndm", "pndm"), "tqlk"),
    **dict.fromkeys(("gradient_estimation", "res_multistep"), "tlk"),
}
FITS: dict[str, dict[str, object]] = {  # options of `bench.quality.fits`
    "forward, 8": {"samples": 8},
    "forward, 32": {"samples": 32},
    "full": {"samples": 256, "method": "full"},
}
COUNTS = (4, 5, 6, 8, 10, 15)
CROSSED = ((6, 10), (10, 20))
SIZES = {"median": "median", "rmse": "RMSE"}
RIVALS = {"best of peers": True, "best of all": False}  # of which unfitted plans: whether some peer has to offer them
EXACT = ("mixture", "smoothed digits")  # no networks


def tables(store: Store, problems: list[str]) -> Iterator[str]:
    """Errors and ratios by number of evaluations, against more evaluations, and what the fits cost."""
    for size in SIZES:
        yield f"### {SIZES[size]}\n\n" + _ratios(store, problems, size)
    for size in SIZES:
        title = f"### Fitted plans against the best unfitted ones of more evaluations, ratios of the {SIZES[size]}"
        yield f"{title}\n\n{_crossed(store, problems, size)}"
    yield "### What the fits cost: seconds of one thread, evaluations of one sample\n\n" + _costs(store, problems)


def best_unfitted(store: Store, problem: str, nfe: int, size: str, offered: bool = False) -> dict | None:
    """The row of the least error among all that is not fitted, or among what some peer offers."""
    found = [row for kind in UNFITTED for row in store.select(problem=problem, kind=kind, nfe=nfe)]
    if offered:
        found = [r for r in found if r["kind"] == "peers" or r["grid"][0] in OFFERED.get(r["solver"], "")]
    return min(found, key=lambda row: row[size], default=None)


def earlier(store: Store, problem: str, nfe: int, size: str) -> np.ndarray:
    """The errors of earlier full fits, one for each seed."""
    return np.array([row[size] for row in store.select(problem=problem, kind="earlier", nfe=nfe)])


def spread(values: np.ndarray) -> str:
    """The mean over fits, and their standard deviation where there are several; a dash where there is none."""
    if not len(values):
        return "-"
    return number(values.mean()) + (f" ± {number(values.std())}" if len(values) > 1 else "")


def _fitted(store: Store, problem: str, name: str, nfe: int) -> dict | None:
    return next(iter(store.select(problem=problem, kind="fits", solver=name, nfe=nfe)), None)


def _ratio(store: Store, problem: str, name: str, few: int, many: int, size: str, offered: bool) -> float | None:
    """The error of a fit with few evaluations over the least one of the unfitted plans with many."""
    fit, best = _fitted(store, problem, name, few), best_unfitted(store, problem, many, size, offered)
    return None if fit is None or best is None else fit[size] / best[size]


def _pair(ratios: Iterable[float | None]) -> str:
    """To the best of peers, bold, and to the best of all."""
    peers, every = ("-" if r is None else f"{r:.2f}" for r in ratios)
    return f"**{peers}**, {every}"


def _ratios(store: Store, problems: list[str], size: str) -> str:
    lines = []
    for problem in problems:
        for title, offered in RIVALS.items():
            rows = (best_unfitted(store, problem, nfe, size, offered) for nfe in COUNTS)
            cells = ["-" if r is None else f"{number(r[size])} {r['solver']}, {r['grid']}" for r in rows]
            lines.append([problem if offered else "", title, *cells])
        for name in FITS:
            cells = [_against(store, problem, name, nfe, size) for nfe in COUNTS]
            if set(cells) != {"-"}:
                lines.append(["", name, *cells])
        if any(len(earlier(store, problem, nfe, size)) for nfe in COUNTS):
            lines.append(["", "earlier full", *(spread(earlier(store, problem, nfe, size)) for nfe in COUNTS)])
    return table(["problem", "plan", *COUNTS], [*lines, *_means(store, problems, [(n, n) for n in COUNTS], size)])


def _against(store: Store, problem: str, name: str, nfe: int, size: str) -> str:
    """The error of a fit, and its ratios."""
    fit = _fitted(store, problem, name, nfe)
    if fit is None:
        return "-"
    ratios = (_ratio(store, problem, name, nfe, nfe, size, offered) for offered in RIVALS.values())
    return f"{number(fit[size])} {_pair(ratios)}"


def _means(store: Store, problems: list[str], pairs: list[tuple[int, int]], size: str) -> Iterator[list[str]]:
    """Rows of geometric means of the ratios. pairs: evaluations of the fit, and of the unfitted plans."""
    for (title, group), name in product(_groups(problems).items(), FITS):
        cells = []
        for few, many in pairs:
            known = [[_ratio(store, p, name, few, many, size, o) for p in group] for o in RIVALS.values()]
            counted = sum(r is not None for r in known[0])
            cells.append(f"{_pair(map(_mean, known))} of {counted}" if counted else "-")
        if set(cells) != {"-"}:
            yield [f"geometric mean over {title}", name, *cells]


def _groups(problems: list[str]) -> dict[str, list[str]]:
    networks = [p for p in problems if p not in EXACT]
    plain, guided = ([p for p in networks if p.endswith("guided") == is_guided] for is_guided in (False, True))
    groups = {"networks": plain, "guided networks": guided, "exact problems": [p for p in problems if p in EXACT]}
    return {title: group for title, group in groups.items() if group}


def _mean(ratios: Iterable[float | None]) -> float:
    """The geometric mean of the ratios there are."""
    return float(np.exp(np.mean([np.log(r) for r in ratios if r is not None])))


def _crossed(store: Store, problems: list[str], size: str) -> str:
    lines = []
    for problem, name in product(problems, FITS):
        ratios = [[_ratio(store, problem, name, *pair, size, o) for o in RIVALS.values()] for pair in CROSSED]
        if any(r is not None for pair in ratios for r in pair):
            lines.append([problem, name, *("-" if None in pair else _pair(pair) for pair in ratios)])
    titles = [f"{few} against {many}" for few, many in CROSSED]
    return table(["problem", "plan", *titles], [*lines, *_means(store, problems, list(CROSSED), size)])


def _costs(store: Store, problems: list[str]) -> str:
    lines = []
    for problem in problems:
        rows = [store.select(problem=problem, kind="fits", solver=name) for name in FITS]
        lines.append([problem, *map(_cost, rows)])
    return table(["problem", *FITS], lines)


def _cost(rows: list[dict]) -> str:
    if not rows:
        return "-"
    seconds, calls = ([row[name] for row in rows] for name in ("seconds", "calls"))
    return f"{min(seconds):.0f} to {max(seconds):.0f} s, {min(calls)} to {max(calls)}"

"""The tables of bench/defaults.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .machine import processor
from .markdown import number, table
from .store import Store

TITLES = {
    "flow": "Flow schedules",
    "vp": "Variance-preserving schedules",
    "ve": "EDM schedules",
    "network": "Networks",
    "guided": "Networks with classifier-free guidance 3",
}
BOUND = (
    "The default's median error over that of the best of Euler, midpoint and Heun on uniform times, on the problem"
    " where it is largest."
)
SHOWN = (4, 5, 6, 8, 10, 15, 20, 50)  # evaluations
Key = tuple[str, str, str]  # kind, solver, grid


def write(store: Store, out: Path) -> None:
    """defaults.md from the rows of defaults.json."""
    parts = [preamble()]
    for schedule, title in TITLES.items():
        rows = store.select(schedule=schedule)
        if rows:
            problems = list(dict.fromkeys(row["problem"] for row in rows))
            parts += [f"## {title}", f"Problems ({len(problems)}): {'; '.join(problems)}.", _summary(rows, problems)]
            parts += [_each(rows, problems)]
    parts += ["## The bound", BOUND, _bound(store)]
    (out / "defaults.md").write_text("\n\n".join(parts) + "\n")


def preamble() -> str:
    return (
        "# The default plan against all that is not fitted\n\n"
        f"`python -m bench.defaults`, torch {torch.__version__}, {processor()}. Errors are medians over samples of the"
        " root mean square distance from the converged solution; over problems their geometric mean. A contestant is"
        " one solver on one grid, the same for every problem; it counts where it serves all of them. Worst is the"
        " default's error over that of the best of Euler, midpoint and Heun on uniform times, on the problem where it"
        " is largest. The last ratio is that of root mean square errors to the best contestant's, which a few samples"
        " in another mode rule. The tables of variance-preserving schedules were found by `python -m"
        " bench.defaults_search --use vp`, and from 8 evaluations on with `--again`, on other mixtures and on these"
        " networks from other noise; those of flows, EDM's schedules and guided runs are of former searches with fewer"
        " mixtures. The orders and grids for more evaluations were chosen after a look at the problems below. Of 6"
        " evaluations a table found without the networks terrain and series has a median error of 0.1621 and 0.1207"
        " there, where the best of Euler, midpoint and Heun has 0.1947 and 0.1112."
    )


def _bound(store: Store) -> str:
    """By kind of schedule and number of evaluations the default's largest ratio to the best simple rule."""
    rows = {title: found for schedule, title in TITLES.items() if (found := store.select(schedule=schedule))}
    counts = sorted({row["nfe"] for found in rows.values() for row in found if row["kind"] == "default"})
    lines = []
    for nfe in counts:
        worst = [max((ratio, name) for name, ratio in _to_simple(found, nfe).items()) for found in rows.values()]
        lines.append([nfe, *(f"{ratio:.2f}, {name}" for ratio, name in worst)])
    return table(("NFE", *rows), lines)


def means(rows: list[dict], problems: list[str], nfe: int, size: str = "median") -> dict[Key, float]:
    """The geometric mean error of every contestant that has run on all problems."""
    found: dict[Key, dict[str, float]] = {}
    for row in rows:
        if row["nfe"] == nfe:
            error = row[size] if np.isfinite(row[size]) else np.inf
            grid = row["grid"] if row["kind"] != "default" else "its own"  # of each kind of schedule
            found.setdefault((row["kind"], row["solver"], grid), {})[row["problem"]] = error
    whole = {key: list(errors.values()) for key, errors in found.items() if len(errors) == len(problems)}
    return {key: float(np.exp(np.mean(np.log(errors)))) for key, errors in whole.items()}


def _summary(rows: list[dict], problems: list[str]) -> str:
    head = (
        "NFE",
        "default",
        "best simple rule",
        "ratio",
        "best contestant",
        "ratio",
        "the next",
        "worst",
        "RMSE ratio",
    )
    lines = []
    for nfe in SHOWN:
        found = means(rows, problems, nfe)
        ours = next(error for key, error in found.items() if key[0] == "default")
        others = sorted((error, key) for key, error in found.items() if key[0] != "default")
        simple = min((error, key) for error, key in others if key[0] == "simple")
        worst = max((ratio, name) for name, ratio in _to_simple(rows, nfe).items())
        rmse = means(rows, problems, nfe, "rmse")
        best_rmse, least = min((error, key) for key, error in rmse.items() if key[0] != "default")
        our_rmse = next(error for key, error in rmse.items() if key[0] == "default")
        lines.append([
            str(nfe), number(ours), _named(simple), f"{ours / simple[0]:.2f}", _named(others[0]),
            f"**{ours / others[0][0]:.2f}**", "; ".join(map(_named, others[1:3])), f"{worst[0]:.2f}, {worst[1]}",
            f"{our_rmse / best_rmse:.2f} {least[1]}, {least[2]}",
        ])  # fmt: skip
    return table(head, lines)


def _to_simple(rows: list[dict], nfe: int) -> dict[str, float]:
    """By problem the default's error over that of the best simple rule."""
    best: dict[str, dict[str, float]] = {"default": {}, "simple": {}}
    for row in rows:
        if row["nfe"] == nfe and row["kind"] in best:
            errors = best[row["kind"]]
            errors[row["problem"]] = min(row["median"], errors.get(row["problem"], np.inf))
    return {name: error / best["simple"][name] for name, error in best["default"].items()}


def _each(rows: list[dict], problems: list[str]) -> str:
    """Every problem: the default's error, and over that of the best contestant in hindsight for this problem."""
    counts = sorted({row["nfe"] for row in rows if row["kind"] == "catalogue"})
    lines = []
    for name in problems:
        cells = []
        for nfe in counts:
            here = [row for row in rows if row["problem"] == name and row["nfe"] == nfe]
            ours = next(row["median"] for row in here if row["kind"] == "default")
            best = min((row for row in here if row["kind"] != "default"), key=lambda row: row["median"])
            cells.append(f"{number(ours)} ({ours / best['median']:.2f}: {best['solver']}, {best['grid']})")
        lines.append([name, *cells])
    return table(["problem", *counts], lines)


def _named(found: tuple[float, Key]) -> str:
    error, (_, solver, grid) = found
    return f"{number(error)} {solver}, {grid}"

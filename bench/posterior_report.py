"""python -m bench.posterior_report: bench/results/posterior.md from the rows that bench.posterior has measured."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from . import posterior_ours
from .markdown import number, table
from .posterior import CALLS, MORE_REPEATS, MOST, PEERS, REPEATS, SAMPLES, STORE, TUNED_AT
from .store import Store

PAGE = Path(__file__).parent / "results" / "posterior.md"
# What peers have to reach, at TUNED_AT calls.
TARGETS = {
    "mixture": ("moment, 3 iterations, particles", "gradient, particles"),
    None: ("moment, 3 iterations", "moment, 6 iterations", "gaussian"),
}
ENOUGH = 3.0  # times our calls
INTRODUCTION = """# Samples given an observation: fastdiff, azula and deepinv

`python -m bench.posterior`, then `python -m bench.posterior_report`. {versions}

Every method has the same exact network, measurements and number of calls, {samples} samples a run. Linear Gaussian
problems: a smooth field, d = 32, standard deviation 0.5, noise 0.05; the error is the 2-Wasserstein distance to the
posterior over sqrt d, from the samples' mean and covariance. What starts the runs has mean 0 and covariance 1 to
rounding, so that methods without noise of their own have next to no error of sampling. Mixture: 6 modes in 16
dimensions, 4 averages observed, noise 0.1, three modes possible; the error is the sliced 2-Wasserstein distance.
"Floor": that of as many exact samples, on the mixture the mean of 20 draws. Particles: the mean of {repeats} runs,
of {more} on the mixture, up to 200 calls.

Where a name says "best", that is the setting of the least error at {tuned} calls: for azula one of three schedules
and of three multistep samplers, for deepinv a strength or weight, for fastdiff one of six plans (two solvers, three
grids), a strength or a spread. All other rows of azula have the best of the three schedules, too. Other rows of
fastdiff have DPM-Solver++ 2M on Karras' grid. "Gradients": vector-Jacobian products through the network, for each
call; one costs about as much as a call or two. A dash: no finite result, or no run of so many calls.
"""


def rows_of(store: Store, problem: str) -> dict[str, dict[int, dict]]:
    """method -> calls -> row; ours first, in the order of their settings."""
    found: dict[str, dict[int, dict]] = {name: {} for name in posterior_ours.methods()}
    for row in store.select(problem=problem):
        if "calls" in row:
            found.setdefault(row["method"], {})[row["calls"]] = row
    return {name: cells for name, cells in found.items() if cells}


def is_peer(method: str) -> bool:
    return method.startswith(tuple(PEERS))


def shown(error: float | None) -> str:
    return "-" if error is None else number(error) if error < 100 else f"{error:.0e}"


def errors(rows: dict[str, dict[int, dict]]) -> Iterator[list[str]]:
    for method, cells in rows.items():
        gradients = max(row["gradients"] / max(row["used"], 1) for row in cells.values())
        name = method if is_peer(method) else f"**{method}**"
        yield [name, f"{gradients:.0f}", *(shown(cells[c]["error"]) if c in cells else "" for c in (*CALLS, MOST))]


def needed(cells: dict[int, dict], error: float) -> float:
    """The calls at which the error is reached, between measured ones on a line of both logarithms; else infinity."""
    known = [(calls, cells[calls]["error"]) for calls in sorted(cells) if cells[calls]["error"] is not None]
    if known and known[0][1] <= error:
        return known[0][0]
    for (c0, e0), (c1, e1) in itertools.pairwise(known):
        if e1 <= error:
            share = math.log(e0 / error) / math.log(e0 / e1)
            return math.exp(math.log(c0) + share * math.log(c1 / c0))
    return math.inf


def ratio(calls: float) -> str:
    if math.isinf(calls):
        return f"> {max(CALLS) / TUNED_AT:.0f}"
    return f"{'<= ' if calls <= min(CALLS) else ''}{calls / TUNED_AT:.1f}"


def part(store: Store, problem: str) -> str:
    """A problem's errors and the calls that peers need."""
    rows = rows_of(store, problem)
    floor = store.select(problem=problem, method="floor")[0]["error"]
    text = f"## {problem.capitalize()}\n\nFloor {number(floor)}.\n\n"
    text += table(["method", "gradients", *(f"{calls} calls" for calls in (*CALLS, MOST))], errors(rows))
    targets = [t for t in TARGETS.get(problem, TARGETS[None]) if TUNED_AT in rows.get(t, {})]
    goals = [rows[t][TUNED_AT]["error"] for t in targets]
    peers = {name: [needed(cells, goal) for goal in goals] for name, cells in rows.items() if is_peer(name)}
    head = [
        "a peer's calls over ours, for the",
        *(f"error of {t}, {shown(g)}" for t, g in zip(targets, goals, strict=True)),
    ]
    text += "\n\n" + table(head, ([name, *map(ratio, found)] for name, found in peers.items()))
    for i, target in enumerate(targets):
        many = sum(found[i] >= ENOUGH * TUNED_AT for found in peers.values())
        text += f"\n\n{many} of {len(peers)} need {ENOUGH:.0f} times the calls of {target}, or more."
    return text


def main() -> None:
    store = Store(STORE)
    versions = []
    for name in PEERS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    text = INTRODUCTION.format(
        versions=", ".join(versions) + ".", samples=SAMPLES, tuned=TUNED_AT, repeats=REPEATS, more=MORE_REPEATS
    )
    problems = dict.fromkeys(row["problem"] for row in store.rows)
    PAGE.write_text(text + "\n" + "\n\n".join(part(store, problem) for problem in problems) + "\n")


if __name__ == "__main__":
    main()

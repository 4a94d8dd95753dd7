"""What the forward fit reaches, and what it costs, beside the best unfitted solver in hindsight.

    python -m bench.forward_fits      # into bench/results/forward_fits.md

The unfitted errors are those of bench/results/quality.json: the whole catalogue and all peers, each on its best grid,
chosen for each number of evaluations on the very noise that judges. Fits see other noise.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import fastdiff as fd

from .machine import processor
from .problems import Problem, digits, mixture, smoothed_digits
from .quality import RESULTS, Study, measured
from .store import Store

EVALUATIONS = (5, 6, 8, 10)
FIRST_SEED = 10**6
JUDGED = 128


def problems() -> list[Problem]:
    """Those that quality.json has."""
    return [mixture(), smoothed_digits(), digits(), digits(guidance=3.0)]


def fit(problem: Problem, nfe: int, samples: int) -> tuple[fd.Plan, float]:
    """The plan, and the seconds that it took."""
    seeds = list(range(FIRST_SEED, FIRST_SEED + samples))
    began = time.perf_counter()
    plan = fd.fit(
        problem.model, problem.schedule, nfe, problem.noise(seeds), prediction=problem.prediction,
        **problem.conditions(seeds),
    )  # fmt: skip
    return plan, time.perf_counter() - began


def lines(problem: Problem, samples: int, store: Store) -> list[str]:
    """The table's rows of a problem."""
    study = Study(problem, JUDGED, 0)
    seeds = list(range(JUDGED))
    exact, found = study.converged(seeds), []
    for nfe in EVALUATIONS:
        best = {size: unfitted(store, problem.name, nfe, size) for size in ("median", "rmse")}
        plan, seconds = fit(problem, nfe, samples)
        got = measured(problem.draw(plan, seeds), exact)
        cells = [f"{best[size]:.4f} | {got[size]:.4f} | **{got[size] / best[size]:.2f}**" for size in best]
        found.append(f"| {problem.name} | {nfe} | {' | '.join(cells)} | {seconds:.0f} |")
        print(found[-1], flush=True)
    return found


def unfitted(store: Store, problem: str, nfe: int, size: str) -> float:
    """The least error of the catalogue and of peers."""
    rows = [store.best(problem, kind, nfe, size) for kind in ("catalogue", "peers")]
    return min(row[size] for row in rows if row is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(RESULTS / "quality.json")
    head = [
        "# Forward fits",
        "",
        f"`python -m bench.forward_fits --samples {arguments.samples}`, torch {torch.__version__}, {processor()}."
        f" {arguments.samples} samples are fitted to, {JUDGED} others judge: median and root mean square (RMSE)"
        " of their distances from the converged samples. Unfitted is the best of the catalogue and of all peers in"
        " hindsight, from `quality.json`. The seconds are those of the whole fit, the search for converged trajectories"
        " included.",
        "",
        "| problem | NFE | unfitted, median | fitted | ratio | unfitted, RMSE | fitted | ratio | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [line for problem in problems() for line in lines(problem, arguments.samples, store)]
    (arguments.out / "forward_fits.md").write_text("\n".join([*head, *rows]) + "\n")


if __name__ == "__main__":
    main()

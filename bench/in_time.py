"""Runs parallel in time: calls, evaluations and errors beside the run row after row.

    python -m bench.in_time                          # into bench/results/in_time.md
    python -m bench.in_time --quick --out build/in_time.md

Three networks that ship and a Gaussian mixture seen through its exact posterior mean. Calls are the model's, one after
the other: what a device with room to spare takes is their number times one call's latency.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.sampling.in_time.sample import METHODS

from .machine import processor
from .markdown import table
from .problems import Problem, digits, mixture, network_problems

RESULTS = Path(__file__).parent / "results" / "in_time.md"
SOLVER, ROWS, TOLERANCES = "dpmpp_2m", (25, 50, 100), (0.1, 0.01, 0.001)
WINDOWS, SPREADS = (4, 8, 16, 32, 100), (0.0, 0.5, 1.0, 2.0, math.inf)
SOLVERS = ("ddim", "unipc", "heun", "euler_ancestral", "dpmpp_2m_sde")
REPEATS = 3


class Run(NamedTuple):
    """One run beside the run row after row: error is the root mean square difference of the two."""

    took: fd.InTime
    error: float
    x: Tensor
    samples: int

    @property
    def cell(self) -> str:
        return f"{self.took.calls}, {self.took.evaluations / self.samples:.0f}, {self.error:.0e}"


class Case:
    """A problem, its plans and seeds, and the samples of the runs row after row."""

    def __init__(self, problem: Problem, count: int) -> None:
        self.problem, self.seeds = problem, list(range(count))

    def plan(self, rows: int, solver: str = SOLVER) -> fd.Plan:
        grid = "logsnr" if self.problem.schedule.kind == "ve" else "time"
        return self.problem.plan(solver, rows, grid)

    def serial(self, plan: fd.Plan) -> Tensor:
        return self.problem.draw(plan, self.seeds)

    def run(self, plan: fd.Plan, want: Tensor, **options: object) -> Run:
        noise, told = self.problem.noise(self.seeds), self.problem.conditions(self.seeds)
        x, took = fd.sample_in_time(self.problem.model, plan, noise, seeds=self.seeds, **told, **options)
        assert took.converged
        return Run(took, distance(x, want), x, len(self.seeds))

    def converged(self) -> Tensor:
        return self.serial(self.problem.plan("unipc", 400, self.problem.converged_grid))


def distance(x: Tensor, y: Tensor) -> float:
    """The root mean square difference."""
    return float((x - y).square().mean().sqrt())


def cases(count: int) -> Iterator[Case]:
    networks = {problem.name: problem for problem in network_problems()}
    for problem in (digits(), networks["mnist"], networks["latent"], mixture()):
        yield Case(problem, count)


def by_method(case: Case) -> Iterator[list[object]]:
    for rows in ROWS:
        plan = case.plan(rows)
        want = case.serial(plan)
        for method in METHODS:
            cells = [case.run(plan, want, method=method, tolerance=tolerance).cell for tolerance in TOLERANCES]
            yield [case.problem.name, rows, method, *cells]


def by_window(case: Case, rows: int) -> list[object]:
    plan = case.plan(rows)
    want = case.serial(plan)
    return [case.problem.name, *(case.run(plan, want, window=window).cell for window in WINDOWS)]


def by_spread(case: Case, rows: int) -> Iterator[list[object]]:
    plan = case.plan(rows)
    want = case.serial(plan)
    for window in (16, rows):
        runs = (case.run(plan, want, method="picard", window=window, spread=spread) for spread in SPREADS)
        yield [case.problem.name, window, *(run.cell for run in runs)]


def by_solver(case: Case, rows: int) -> list[object]:
    cells = []
    for solver in SOLVERS:
        plan = case.plan(rows // 2 if solver == "heun" else rows, solver)
        cells.append(case.run(plan, case.serial(plan)).cell)
    return [case.problem.name, *cells]


def beside_short_plans(case: Case) -> Iterator[list[object]]:
    """Distances from the converged samples: of a long run, of it in time, and of a plan of as many rows as calls."""
    exact = case.converged()
    for rows in ROWS:
        plan = case.plan(rows)
        want = case.serial(plan)
        run = case.run(plan, want)
        short = case.serial(case.problem.plan("unipc", run.took.calls, case.problem.converged_grid))
        errors = [f"{distance(x, exact):.1e}" for x in (want, run.x, short)]
        yield [case.problem.name, rows, run.took.calls, *errors]


def timed(case: Case, rows: int) -> list[object]:
    plan = case.plan(rows)
    want = case.serial(plan)

    def best(run: Callable[[], object]) -> float:
        found = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            run()
            found.append(time.perf_counter() - began)
        return min(found)

    serial = best(lambda: case.serial(plan))
    ratios = [best(lambda method=m: case.run(plan, want, method=method)) / serial for m in METHODS]
    return [case.problem.name, rows, f"{serial:.2f}", *(f"{ratio:.2f}" for ratio in ratios)]


def report(count: int, longest: int) -> str:
    found = list(cases(count))
    guided = Case(next(p for p in network_problems() if p.name == "mnist, guided"), count)
    shown = ["inf (the papers)" if math.isinf(s) else f"{s:g}" for s in SPREADS]
    by_methods = [line for case in found for line in by_method(case)]
    by_spreads = [line for case in found for line in by_spread(case, longest)]
    parts = [
        "# Parallel in time",
        f"`python -m bench.in_time`, torch {torch.__version__}, {processor()}; {count} samples. Cells: calls of the"
        " model one after the other (one of them finds out whether the model reads each sample's time), evaluations"
        " of the network a sample, and the root mean square difference from the run row after row, which makes a call"
        " and an evaluation a row. Unless said otherwise"
        f" `{SOLVER}`, method anderson, window 16, tolerance 0.01, spread 1.",
        "## Methods and tolerances",
        table(["problem", "rows", "method", *(f"tolerance {t:g}" for t in TOLERANCES)], by_methods),
        f"## Windows, {longest} rows",
        table(["problem", *(f"window {w}" for w in WINDOWS)], [by_window(case, longest) for case in found]),
        f"## What is held, {longest} rows",
        "Method picard. The spread is that of the data whose slope carries an evaluation along: 0 holds x0, infinity"
        " the noise.",
        table(["problem", "window", *(f"spread {s}" for s in shown)], by_spreads),
        f"## Solvers, {longest} evaluations",
        table(["problem", *SOLVERS], [by_solver(case, longest) for case in [*found, guided]]),
        "## Beside a short plan",
        "Root mean square distances from the converged samples: of the run row after row, of the run in time, and of"
        " UniPC run row after row in as many calls as that made.",
        table(
            ["problem", "rows", "calls", "row after row", "in time", "UniPC of as many rows"],
            [line for case in found for line in beside_short_plans(case)],
        ),
        "## Time on this CPU",
        f"Seconds of the run row after row, and how many times as long the others take; best of {REPEATS}, one thread"
        f" of a machine that others use too. Networks as small as these leave even a core idle at {count} samples; the"
        " mixture's evaluation takes less than the rest of a round. Of large networks evaluations count on a CPU.",
        table(["problem", "rows", "row after row", *METHODS], [timed(case, longest) for case in found]),
    ]
    return "\n\n".join(parts)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="few samples and rows, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report(2, 25) + "\n" if options.quick else report(8, 100) + "\n")


if __name__ == "__main__":
    main()

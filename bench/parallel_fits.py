"""Plans fitted with several evaluations in a call, beside plans of one, at equal calls.

    python -m bench.parallel_fits                    # at 6 calls, into bench/results/parallel_fits.md
    python -m bench.parallel_fits --networks mnist --calls 5 6 8

Fits see other noise (8 samples, seeds from 10^6) than they are judged on (seeds 0 to 127).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import fastdiff as fd
from fastdiff.commands.fit import FIRST_SEED

from .machine import processor
from .markdown import number, table
from .problems import Problem, network_problems
from .quality import Study, measured

RESULTS = Path(__file__).parent / "results" / "parallel_fits.md"
FITTED_TO, JUDGED, IN_A_CALL = 8, 128, (1, 2, 3)


def lines(problem: Problem, calls: int) -> Iterator[list[object]]:
    """A row of the table for each number of evaluations in a call."""
    seeds, judged = list(range(FIRST_SEED, FIRST_SEED + FITTED_TO)), list(range(JUDGED))
    exact, start = Study(problem, JUDGED).converged(judged), problem.noise(judged)
    for count in IN_A_CALL:
        began = time.process_time()  # of one thread, also on a machine that is busy with other work
        plan = fd.fit(
            problem.model, problem.schedule, calls, problem.noise(seeds), prediction=problem.prediction, parallel=count,
            **problem.conditions(seeds),
        )  # fmt: skip
        seconds = time.process_time() - began
        assert len(plan.turns) == calls
        found = measured(
            fd.sample(problem.model, plan, start, parallel=count > 1, **problem.conditions(judged)), exact
        )  # fmt: skip
        yield [problem.name, calls, count, number(found["median"]), number(found["rmse"]), f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--networks", nargs="+", default=["mnist", "latent"])
    parser.add_argument("--calls", nargs="+", type=int, default=[6])
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = [problem for problem in network_problems() if problem.name in options.networks]
    found = [line for problem in problems for calls in options.calls for line in lines(problem, calls)]
    parts = [
        "# Fits with several evaluations in a call",
        f"`python -m bench.parallel_fits`, torch {torch.__version__}, {processor()}. Distances from the converged"
        f" samples: median and root mean square over {JUDGED} samples, of plans fitted to {FITTED_TO} others; seconds"
        " of one core for the fit.",
        table(["network", "calls", "evaluations in a call", "median", "RMSE", "seconds"], found),
    ]
    options.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()

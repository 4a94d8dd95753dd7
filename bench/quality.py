"""How far from the converged solution each solver ends, by number of model evaluations, and how good its digits are.

    python -m bench.quality                     # everything, into bench/results/quality.json, .md and .png
    python -m bench.quality --quick             # a small version of the same, in about a minute
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

import fastdiff as fd
from fastdiff.catalogue import find_solver

from . import digits_metrics, quality_report
from .problems import Problem, digits, mixture

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = (4, 5, 6, 8, 10, 15, 20, 30, 50)
GRIDS = ("time", "quadratic", "logsnr", "karras")
SAME = {"euler", "unipc_bh1"}  # the rows of ddim, and a variant of unipc
SHOWN = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_3m_exact", "unipc", "euler_ancestral", "dpmpp_2m_sde")


def steps_for(problem: Problem, solver: fd.Solver, evaluations: int, grid: str) -> fd.Plan | None:
    """The plan of this solver with the most steps that fit into the evaluations, or None if none spends exactly them."""
    for steps in range(evaluations, 0, -1):
        if solver.nfe * (steps - 1) + 1 > evaluations:
            continue
        plan = problem.plan(solver.name, steps, grid)
        if plan.nfe <= evaluations:
            return plan if plan.nfe == evaluations or solver.nfe > 1 else None
    return None


def errors(problem: Problem, seeds: list[int], evaluations: Iterable[int]) -> list[dict]:
    """Median and root mean square distance from the converged solution of every deterministic solver and grid."""
    exact = problem.draw(problem.plan("dpmpp_3m_exact", 400, problem.converged_grid), seeds)
    rows = []
    for solver in fd.solvers():
        if solver.stochastic or solver.name in SAME:
            continue
        for count in evaluations:
            for grid in GRIDS:
                plan = steps_for(problem, solver, count, grid)
                if plan is None:
                    continue
                difference = (problem.draw(plan, seeds) - exact).flatten(1).double()
                each = difference.square().mean(1).sqrt().numpy()
                rows.append(
                    {
                        "problem": problem.name,
                        "solver": solver.name,
                        "grid": grid,
                        "nfe": count,
                        "spent": plan.nfe,
                        "median": float(np.median(each)),
                        "rmse": float(np.sqrt(np.mean(each**2))),
                    }
                )
    return rows


def scores(problem: Problem, best: dict[tuple[str, int], str], runs: int, samples: int) -> list[dict]:
    """Classifier and Frechet scores of the digits of each shown solver, mean and spread over `runs` sets of seeds."""
    judge = digits_metrics.DigitsJudge()
    rows = []
    for (name, count), grid in best.items():
        solver, _ = find_solver(name)
        plan = steps_for(problem, solver, count, grid)
        sets = []
        for run in range(runs):
            seeds = list(range(10_000 + run * samples, 10_000 + (run + 1) * samples))
            parts = [problem.draw(plan, seeds[i : i + 250]) for i in range(0, samples, 250)]
            sets.append(judge.measure(torch.cat(parts).numpy(), np.array(seeds) % 10))
        row = {"solver": name, "nfe": count, "grid": grid}
        for key in sets[0]:
            values = [s[key] for s in sets]
            row[key], row[f"{key}_spread"] = float(np.mean(values)), float(np.std(values))
        rows.append(row)
    return rows


def best_grids(rows: list[dict], evaluations: Iterable[int]) -> dict[tuple[str, int], str]:
    """The grid of the least median error for each shown solver; stochastic ones take dpmpp_2m's."""
    best = {}
    for name in SHOWN:
        for count in evaluations:
            source = "dpmpp_2m" if find_solver(name)[0].stochastic else name
            fitting = [r for r in rows if r["problem"] == "digits" and r["solver"] == source and r["nfe"] == count]
            if fitting:
                best[name, count] = min(fitting, key=lambda r: r["median"])["grid"]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    evaluations = (5, 10) if arguments.quick else EVALUATIONS
    count = 16 if arguments.quick else 128
    seeds = list(range(count))
    rows = [row for problem in (mixture(), digits()) for row in errors(problem, seeds, evaluations)]
    best = best_grids(rows, evaluations)
    judged = scores(digits(), best, *((1, 250) if arguments.quick else (3, 500)))
    result = {"samples": count, "floor": digits_metrics.DigitsJudge().floor(), "errors": rows, "scores": judged}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quality.json").write_text(json.dumps(result, indent=1) + "\n")
    quality_report.write(result, arguments.out)


if __name__ == "__main__":
    main()

"""How far from the converged solution each solver ends, by number of model evaluations, and how good its digits are.

python -m bench.quality                     # everything, into bench/results/quality.json, .md and .png
python -m bench.quality --quick             # a small version of the same, in about a minute
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import torch

import fastdiff as fd
from fastdiff.catalogue import find_solver

from . import digits_metrics, quality_report
from .problems import Problem, digits, mixture

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = (4, 5, 6, 8, 10, 15, 20, 50)
SCORED = (5, 8, 10, 20, 50)
GRIDS = ("time", "quadratic", "logsnr", "karras")
Measure = Callable[[np.ndarray, list[int]], dict[str, float]]

LEFT_OUT = {"euler", "unipc_bh1", "heun", "dpm_2"}  # the rows of ddim, a variant of unipc, and those told apart below
VARIANTS = {
    "heun, sigma": ("heun", {"coordinate": "sigma"}),
    "heun, flow": ("heun", {"coordinate": "flow"}),
    "dpm_2, sigma": ("dpm_2", {"coordinate": "sigma"}),
    "dpm_2, flow": ("dpm_2", {"coordinate": "flow"}),
    "unipc, order 3": ("unipc", {"order": 3}),
}
SHOWN = ("ddim", "heun, flow", "dpmpp_2m", "dpmpp_3m", "unipc", "ddpm", "dpmpp_2m_sde")


def contestants() -> dict[str, tuple[str, dict]]:
    """Every deterministic solver, and the variants worth a row of their own: name -> (solver, options)."""
    names = [s.name for s in fd.solvers() if not s.stochastic and s.name not in LEFT_OUT]
    return {name: (name, {}) for name in names} | VARIANTS


def plan_within(problem: Problem, contestant: tuple[str, dict], evaluations: int, grid: str) -> fd.Plan:
    """The plan with the most steps whose model evaluations fit."""
    name, options = contestant
    steps = evaluations // find_solver(name)[0].nfe + 1
    while (plan := problem.plan(name, steps, grid, **options)).nfe > evaluations:
        steps -= 1
    return plan


def errors(problem: Problem, seeds: list[int], evaluations: Iterable[int]) -> list[dict]:
    """Median and root mean square distance from the converged solution, for every contestant and grid."""
    exact = problem.draw(problem.plan("dpmpp_3m_exact", 400, problem.converged_grid), seeds)
    rows = []
    for (name, contestant), count, grid in product(contestants().items(), evaluations, GRIDS):
        plan = plan_within(problem, contestant, count, grid)
        difference = (problem.draw(plan, seeds) - exact).flatten(1).double()
        each = difference.square().mean(1).sqrt().numpy()
        sizes = {"median": float(np.median(each)), "rmse": float(np.sqrt(np.mean(each**2)))}
        rows.append({"problem": problem.name, "solver": name, "grid": grid, "nfe": count, "spent": plan.nfe, **sizes})
    return rows


def scores(
    problem: Problem, measure: Measure, rows: list[dict], evaluations: Iterable[int], runs: int, samples: int
) -> list[dict]:
    """Scores of the samples of the shown solvers, mean and spread over `runs` sets of seeds.

    Each runs on its grid of least median error, the stochastic ones on dpmpp_2m's.
    """
    found = []
    for name, count in product(SHOWN, evaluations):
        contestant = contestants().get(name, (name, {}))
        source = name if name in contestants() else "dpmpp_2m"
        fitting = [r for r in rows if (r["problem"], r["solver"], r["nfe"]) == (problem.name, source, count)]
        grid = min(fitting, key=lambda r: r["median"])["grid"]
        plan = plan_within(problem, contestant, count, grid)
        sets = [_judged(problem, measure, plan, 10_000 + run * samples, samples) for run in range(runs)]
        row = {"problem": problem.name, "solver": name, "nfe": count, "grid": grid}
        for key in sets[0]:
            values = [s[key] for s in sets]
            row[key], row[f"{key}_spread"] = float(np.mean(values)), float(np.std(values))
        found.append(row)
    return found


def digits_measure() -> Measure:
    """Classifier and Frechet scores against the real digits."""
    judge = digits_metrics.DigitsJudge()
    return lambda x, seeds: judge.measure(x, np.array(seeds) % 10)


def moments_measure(problem: Problem) -> Measure:
    """The Frechet distance from the data's own mean and covariance."""

    def measure(x: np.ndarray, seeds: list[int]) -> dict[str, float]:
        return {"frechet": digits_metrics.frechet_of_moments(x.mean(0), np.cov(x, rowvar=False), *problem.moments)}

    return measure


def _judged(problem: Problem, measure: Measure, plan: fd.Plan, first: int, count: int) -> dict:
    seeds = list(range(first, first + count))
    parts = [problem.draw(plan, seeds[i : i + 250]) for i in range(0, count, 250)]
    return measure(torch.cat(parts).numpy(), seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quick = arguments.quick
    evaluations, scored = ((5, 10), (5, 10)) if quick else (EVALUATIONS, SCORED)
    count = 16 if quick else 128
    seeds = list(range(count))
    rows = [row for problem in (mixture(), digits()) for row in errors(problem, seeds, evaluations)]
    runs, size = (1, 250) if quick else (3, 500)
    judged = scores(digits(), digits_measure(), rows, scored, runs, size)
    judged += scores(mixture(), moments_measure(mixture()), rows, scored, runs, 4 * size)
    result = {"samples": count, "floor": digits_metrics.DigitsJudge().floor(), "errors": rows, "scores": judged}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quality.json").write_text(json.dumps(result, indent=1) + "\n")
    quality_report.write(result, arguments.out)


if __name__ == "__main__":
    main()

"""How far from the converged solution solvers and fitted plans end, by number of model evaluations.

    python -m bench.quality                          # everything, into bench/results/quality.json, .md and .png
    python -m bench.quality --only digits --parts catalogue peers
    python -m bench.quality --parts fits --fits "forward, 8" --evaluations 6
    python -m bench.quality --quick --out build/quick

What is in quality.json is not measured again: an interrupted run goes on where it stopped, and deleting a row measures
it anew. Nothing is fitted to the noise that is judged (seeds from 0; fits see seeds from 10^6).
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.commands.fit import FIRST_SEED
from fastdiff.fitting import Trial
from fastdiff.plans.catalogue import find_solver

from . import digits_metrics, peers, quality_report
from .problems import Problem, digits, mixture, network_problems, smoothed_digits
from .quality_summary import FITS, SIZES
from .store import Store

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20)
GRIDS = ("time", "quadratic", "logsnr", "karras")
SCREENED = 16  # samples on which each solver's best grids are found
BEHIND = 2.0  # times the error of the best solver there, from which on a solver is not judged on all samples
PARTS = ("catalogue", "peers", "fits", "frechet")
NETWORK_EVALUATIONS = (4, 5, 6, 8, 10, 15, 20)
ROUGH = ("terrain", "series")  # whose samples still change by 0.4 % of their size beyond 100 steps
FITTED = (6, 8, 5, 10, 4, 15)  # evaluations of fits, those that tell most first

LEFT_OUT = {"euler", "unipc_bh1", "heun", "dpm_2"}  # the rows of ddim, a variant of unipc, and those told apart below
VARIANTS = {
    "heun, sigma": ("heun", {"coordinate": "sigma"}),
    "heun, flow": ("heun", {"coordinate": "flow"}),
    "dpm_2, sigma": ("dpm_2", {"coordinate": "sigma"}),
    "dpm_2, flow": ("dpm_2", {"coordinate": "flow"}),
    "unipc, order 3": ("unipc", {"order": 3}),
    "ipndm, order 2": ("ipndm", {"order": 2}),
    "ipndm_v, order 2": ("ipndm_v", {"order": 2}),
}


@dataclass(frozen=True)
class Study:
    """One problem: how many samples judge, and at which evaluations. options: of its full fits."""

    problem: Problem
    samples: int
    frechet_samples: int = 0
    evaluations: tuple[int, ...] = EVALUATIONS
    fits: tuple[int, ...] = FITTED
    options: dict[str, object] = field(default_factory=dict)

    def converged(self, seeds: list[int]) -> Tensor:
        """The samples that all others are measured against."""
        steps = 400 if self.problem.dtype == torch.float64 or self.problem.name in ROUGH else 100
        plan = self.problem.plan("unipc", steps, self.problem.converged_grid, order=3)
        return torch.cat([self.problem.draw(plan, seeds[i : i + 128]) for i in range(0, len(seeds), 128)])


def studies() -> list[Study]:
    """The exact problems, and every network that ships."""
    # A few samples there lie between two modes, and only many noises show how to treat them.
    exact = {"samples": 4096, "batch": 256, "tolerance": 5e-4, "iterations": 400, "evaluations": None}
    return [
        Study(mixture(), 512, 4000, options=exact),
        Study(smoothed_digits(), 512, 4000, options=exact),
        Study(digits(), 256, 1000),
        Study(digits(guidance=3.0), 128, 500),
        *(Study(problem, 128, evaluations=NETWORK_EVALUATIONS) for problem in network_problems()),
    ]


def contestants() -> dict[str, tuple[str, dict]]:
    """Every deterministic solver, and the variants worth a row of their own: name -> (solver, options)."""
    names = [s.name for s in fd.solvers() if not s.stochastic and s.order and s.name not in LEFT_OUT]
    return {name: (name, {}) for name in names} | VARIANTS


def plan_within(problem: Problem, contestant: tuple[str, dict], evaluations: int, grid: str) -> fd.Plan | None:
    """The plan with the most steps whose model evaluations fit; None where there is none."""
    name, options = contestant
    for steps in range(evaluations // find_solver(name)[0].nfe + 1, 0, -1):
        try:
            plan = problem.plan(name, steps, grid, **options)
        except ValueError:  # an order above the number of steps
            continue
        if plan.nfe <= evaluations:
            return plan
    return None


def measured(x: Tensor, exact: Tensor) -> dict[str, float]:
    """Median, mean and root mean square over samples of the root mean square distance."""
    each = (x - exact).flatten(1).double().square().mean(1).sqrt()
    return {"median": float(each.median()), "mean": float(each.mean()), "rmse": float(each.square().mean().sqrt())}


def unfitted(study: Study, store: Store, exact: Tensor, part: str) -> None:
    """Each solver's best grids, found on a few samples, judged on all where they come near the best solver's."""
    problem, seeds = study.problem, list(range(study.samples))
    if part == "peers":
        table = peers.peers(problem)
        runs = {key: lambda s, n, key=key: peers.draw(problem, table[key], s, n) for key in table}
    else:
        runs = {
            (name, grid): lambda s, n, c=contestant, g=grid: _drawn(problem, plan_within(problem, c, n, g), s)
            for (name, contestant), grid in product(contestants().items(), GRIDS)
        }
    for nfe in study.evaluations:
        keys = {name: {"problem": problem.name, "kind": part, "solver": name, "nfe": nfe} for name, _ in runs}
        missing = [name for name, key in keys.items() if not store.has(key)]
        screened = {name: _screened(runs, name, nfe, seeds[:SCREENED], exact) for name in missing}
        every = [errors for found in screened.values() for errors in found.values()]
        least = {size: min((errors[size] for errors in every), default=0.0) for size in SIZES}
        for name, found in screened.items():
            best = {size: min(found, key=lambda grid: found[grid][size]) for size in SIZES} if found else {}
            near = sorted({grid for size, grid in best.items() if found[grid][size] < BEHIND * least[size]})
            drawn = {grid: runs[name, grid](seeds, nfe) for grid in near}
            store.add(keys[name], [{"grid": g, "spent": n, **measured(x, exact)} for g, (x, n) in drawn.items()])


def _screened(runs: dict, name: str, nfe: int, seeds: list[int], exact: Tensor) -> dict[str, dict[str, float]]:
    """A solver's errors on each of its grids, on a few samples."""
    drawn = {grid: run(seeds, nfe) for (solver, grid), run in runs.items() if solver == name}
    errors = {grid: measured(x[0], exact[: len(seeds)]) for grid, x in drawn.items() if x is not None}
    return {grid: found for grid, found in errors.items() if not math.isnan(found["mean"])}


def _drawn(problem: Problem, plan: fd.Plan | None, seeds: list[int]) -> tuple[Tensor, int] | None:
    return None if plan is None else (problem.draw(plan, seeds), plan.nfe)


def fits(study: Study, store: Store, exact: Tensor, work: Path, names: list[str]) -> None:
    """Plans fitted to other noise than they are judged on."""
    problem, seeds = study.problem, list(range(study.samples))
    for nfe, name in product(study.fits, names):
        key = {"problem": problem.name, "kind": "fits", "solver": name, "nfe": nfe}
        if store.has(key):
            continue
        options = FITS[name] | (study.options if name == "full" else {})
        trials: list[Trial] = []
        began = time.process_time()  # of one thread, also on a machine that is busy with other work
        plan = _fit(problem, nfe, report=trials.append, **options)
        seconds, calls = time.process_time() - began, max(trial.evaluations for trial in trials)
        row = {"grid": plan.solver, "spent": plan.nfe, "seconds": seconds, "calls": calls}
        path = plan_file(work, problem, name, nfe)
        path.parent.mkdir(parents=True, exist_ok=True)
        plan.save(path)
        store.add(key, [{**row, **measured(problem.draw(plan, seeds), exact)}])
        print(key, store.rows[-1], flush=True)


def _fit(problem: Problem, nfe: int, samples: int, **options: object) -> fd.Plan:
    seeds = list(range(FIRST_SEED, FIRST_SEED + samples))
    return fd.fit(
        problem.model, problem.schedule, nfe, problem.noise(seeds), prediction=problem.prediction,
        **problem.conditions(seeds), **options,
    )  # fmt: skip


def plan_file(work: Path, problem: Problem, name: str, nfe: int) -> Path:
    """Where a fitted plan is kept."""
    return work / f"{problem.name} {name}".replace(", ", "-").replace(" ", "-") / f"{nfe}.json"


def frechet(study: Study, store: Store, work: Path) -> None:
    """Frechet distance from the data: of converged samples, of the best unfitted solver's, and of the fitted plan's."""
    problem, seeds = study.problem, list(range(10_000, 10_000 + study.frechet_samples))
    judge = digits_metrics.DigitsJudge() if problem.conditional else None  # of digits of 8 x 8

    def score(x: Tensor) -> dict[str, float]:
        if judge is None:
            return digits_metrics.frechet_of_samples(x.numpy(), *problem.moments)
        return judge.measure(x.numpy(), torch.tensor(seeds).numpy() % 10)

    def judged(name: str, nfe: int, draw: object) -> None:
        key = {"problem": problem.name, "kind": "frechet", "solver": name, "nfe": nfe}
        if not store.has(key):
            store.add(key, [score(draw())])

    judged("converged", 0, lambda: study.converged(seeds))
    for nfe in study.fits:
        best = store.best(problem.name, "catalogue", nfe, "median")
        if best is None:
            continue
        name, grid = best["solver"], best["grid"]
        plans = {f"{name}, {grid}": plan_within(problem, contestants()[name], nfe, grid)}
        paths = {name: plan_file(work, problem, name, nfe) for name in FITS}
        plans |= {name: fd.Plan.load(path) for name, path in paths.items() if path.exists()}
        for name, plan in plans.items():
            judged(name, nfe, lambda plan=plan: _in_parts(problem, plan, seeds))


def _in_parts(problem: Problem, plan: fd.Plan, seeds: list[int]) -> Tensor:
    return torch.cat([problem.draw(plan, seeds[i : i + 250]) for i in range(0, len(seeds), 250)])


def quick(study: Study) -> Study:
    """A small version of the same."""
    return Study(study.problem, 32, 250, (5,), (5,), {"iterations": 20, "samples": 64})


def only(study: Study, evaluations: list[int]) -> Study:
    """The same with these numbers of evaluations alone."""
    kept = {name: tuple(n for n in getattr(study, name) if n in evaluations) for name in ("evaluations", "fits")}
    return replace(study, **kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="problems by name (default: all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--evaluations", type=int, nargs="+", help="only these numbers of evaluations")
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS), help="only these")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="where fits keep what they have done")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = Store(arguments.out / "quality.json")
    for study in studies():
        if arguments.only and study.problem.name not in arguments.only:
            continue
        study = quick(study) if arguments.quick else study
        study = only(study, arguments.evaluations) if arguments.evaluations else study
        exact = study.converged(list(range(study.samples)))
        for part in arguments.parts:
            if part == "fits":
                fits(study, store, exact, arguments.work, arguments.fits)
            elif part == "frechet" and study.frechet_samples:
                frechet(study, store, arguments.work)
            elif part in ("catalogue", "peers"):
                unfitted(study, store, exact, part)
    quality_report.write(store, arguments.out)


if __name__ == "__main__":
    main()

"""How far from the converged solution solvers and fitted plans end, by number of model evaluations.

    python -m bench.quality                          # everything, into bench/results/quality.json, .md and .png
    python -m bench.quality --only digits --parts catalogue peers
    python -m bench.quality --quick --out build/quick

What is in quality.json is not measured again: an interrupted run goes on where it stopped, and deleting a row measures
it anew. Nothing is fitted to the noise that is judged (seeds from 0; fits see seeds from 10^6).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.commands.fit import FIRST_SEED, fit_demo
from fastdiff.plans.catalogue import find_solver

from . import digits_metrics, peers, quality_report
from .problems import Problem, digits, mixture, smoothed_digits
from .store import Store

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20)
GRIDS = ("time", "quadratic", "logsnr", "karras")
SCREENED = 16  # samples on which each solver's best grids are found
PARTS = ("catalogue", "peers", "fitted", "frechet")

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
    """One problem: how many samples judge, at which evaluations, how often each fit is repeated, and its options.

    special: further options of the fits with single numbers of evaluations.
    """

    problem: Problem
    samples: int
    frechet_samples: int
    evaluations: tuple[int, ...] = EVALUATIONS
    fits: dict[int, int] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    special: dict[int, dict[str, object]] = field(default_factory=dict)

    def converged(self, seeds: list[int]) -> Tensor:
        """The samples that all others are measured against."""
        steps = 400 if self.problem.dtype == torch.float64 else 100
        plan = self.problem.plan("unipc", steps, self.problem.converged_grid, order=3)
        return torch.cat([self.problem.draw(plan, seeds[i : i + 128]) for i in range(0, len(seeds), 128)])


def studies() -> list[Study]:
    """Five seeds of fitting where a target is set, one elsewhere."""
    repeated = {n: 5 if n in (5, 6, 8, 10) else 1 for n in (5, 8, 6, 10, 3, 4, 7, 12, 15, 20)}
    # A few samples there lie between two modes, and only many noises show how to treat them.
    exact = {"noises": 4096, "batch": 256, "tolerance": 5e-4}
    longer = {"iterations": 400}
    # Under guidance fits of few evaluations may be slow to end.
    few = {nfe: {"iterations": 300} for nfe in (5, 6)}
    return [
        Study(mixture(), 512, 4000, fits=repeated, options=exact | longer),
        Study(smoothed_digits(), 512, 4000, fits=repeated, options=exact | {"iterations": 300}),
        Study(digits(), 256, 1000, fits=repeated),
        Study(digits(guidance=3.0), 128, 500, (5, 6, 8, 10, 20), dict.fromkeys((8, 5, 6, 10), 1), special=few),
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
    """Each solver's best grids, found on a few samples, judged on all."""
    problem, seeds = study.problem, list(range(study.samples))
    if part == "peers":
        table = peers.peers(problem)
        runs = {key: lambda s, n, key=key: peers.draw(problem, table[key], s, n) for key in table}
    else:
        runs = {
            (name, grid): lambda s, n, c=contestant, g=grid: _drawn(problem, plan_within(problem, c, n, g), s)
            for (name, contestant), grid in product(contestants().items(), GRIDS)
        }
    for nfe, solver in product(study.evaluations, dict.fromkeys(name for name, _ in runs)):
        key = {"problem": problem.name, "kind": part, "solver": solver, "nfe": nfe}
        if not store.has(key):
            grids = {grid: run for (name, grid), run in runs.items() if name == solver}
            store.add(key, list(_best_grids(grids, nfe, seeds, exact)))


def _best_grids(grids: dict, nfe: int, seeds: list[int], exact: Tensor) -> Iterator[dict]:
    few = min(SCREENED, len(seeds))
    drawn = {grid: run(seeds[:few], nfe) for grid, run in grids.items()}
    screened = {grid: measured(x[0], exact[:few]) for grid, x in drawn.items() if x is not None}
    best = {min(screened, key=lambda g: screened[g][size]) for size in ("median", "rmse")} if screened else ()
    for grid in sorted(best):
        x, spent = grids[grid](seeds, nfe)
        yield {"grid": grid, "spent": spent, **measured(x, exact)}


def _drawn(problem: Problem, plan: fd.Plan | None, seeds: list[int]) -> tuple[Tensor, int] | None:
    return None if plan is None else (problem.draw(plan, seeds), plan.nfe)


def fitted(study: Study, store: Store, exact: Tensor, work: Path, repeats: int) -> None:
    """Fitted plans, the first seed of every number of evaluations first."""
    problem, seeds = study.problem, list(range(study.samples))
    for seed, nfe in product(range(min(repeats, max(study.fits.values(), default=0))), study.fits):
        key = {"problem": problem.name, "kind": "fitted", "solver": f"fitted, seed {seed}", "nfe": nfe}
        if seed >= study.fits[nfe] or store.has(key):
            continue
        folder = _folder(work, problem, seed)
        began = time.perf_counter()
        plan = _fit(study, nfe, seed, folder)
        seconds = time.perf_counter() - began
        plan.save(folder / f"{nfe}.json")
        distances = measured(problem.draw(plan, seeds), exact)
        store.add(key, [{"grid": plan.solver, "spent": plan.nfe, "seconds": seconds, **distances}])
        print(key, distances, f"{seconds:.0f} s", flush=True)


def _folder(work: Path, problem: Problem, seed: int) -> Path:
    return work / f"{problem.name}-{seed}".replace(", ", "-").replace(" ", "-")


def _fit(study: Study, nfe: int, seed: int, folder: Path) -> fd.Plan:
    problem, options = (
        study.problem,
        {"method": "full", "seed": seed, "folder": folder, **study.options, **study.special.get(nfe, {})},
    )
    if problem.conditional:
        return fit_demo(nfe, guidance=problem.guidance, **options)
    first = FIRST_SEED * (seed + 1)
    noise = problem.noise(list(range(first, first + options.pop("noises", 1024))))
    return fd.fit(problem.model, problem.schedule, nfe, noise, prediction=problem.prediction, **options)


def frechet(study: Study, store: Store, work: Path) -> None:
    """Frechet distance from the data: of converged samples, of the best unfitted solver's, and of the fitted plan's."""
    problem, seeds = study.problem, list(range(10_000, 10_000 + study.frechet_samples))
    judge = digits_metrics.DigitsJudge() if problem.conditional else None

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
        path = _folder(work, problem, 0) / f"{nfe}.json"
        if best is None or not path.exists():
            continue
        plans = {
            f"{best['solver']}, {best['grid']}": plan_within(problem, contestants()[best["solver"]], nfe, best["grid"]),
            "fitted": fd.Plan.load(path),
        }
        for name, plan in plans.items():
            judged(name, nfe, lambda plan=plan: _in_parts(problem, plan, seeds))


def _in_parts(problem: Problem, plan: fd.Plan, seeds: list[int]) -> Tensor:
    return torch.cat([problem.draw(plan, seeds[i : i + 250]) for i in range(0, len(seeds), 250)])


def quick(study: Study) -> Study:
    """A small version of the same."""
    return Study(study.problem, 32, 250, (5,), {5: 1} if not study.problem.conditional else {}, {"iterations": 20})


def only(study: Study, evaluations: list[int]) -> Study:
    """The same with these numbers of evaluations alone."""
    fits = {n: repeats for n, repeats in study.fits.items() if n in evaluations}
    return replace(study, evaluations=tuple(n for n in study.evaluations if n in evaluations), fits=fits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="problems by name (default: all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--evaluations", type=int, nargs="+", help="only these numbers of evaluations")
    parser.add_argument("--repeats", type=int, default=5, help="at most so many seeds of each fit")
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
            if part == "fitted":
                fitted(study, store, exact, arguments.work, arguments.repeats)
            elif part == "frechet":
                frechet(study, store, arguments.work)
            else:
                unfitted(study, store, exact, part)
    quality_report.write(store, arguments.out)


if __name__ == "__main__":
    main()

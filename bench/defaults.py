"""The default plan, fd.plan(None, ...), against everything else that is not fitted.

    python -m bench.defaults                  # all problems, into bench/results/defaults.md
    python -m bench.defaults --only flow      # those whose name begins so

Contestants: every deterministic solver of the catalogue on four grids (and, on discrete schedules, on the grids made
for them), ComfyUI's usual samplers on the grids of its menu, Euler, midpoint and Heun on uniform times, and other
packages' samplers with their own defaults. What is in build/defaults.json is not measured again (all of it takes some
eight minutes of one core). Its rows have the keys of quality.json. The mixtures, and the noise of the networks, are
others than those of bench.defaults_search.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import torch
from torch import Tensor

import fastdiff as fd

from . import defaults_report, official, peers
from .mixtures import judged_on
from .problems import Problem, digits, mixture, network_problems, smoothed_digits
from .quality import GRIDS, RESULTS, Study, contestants, measured, plan_within
from .store import Store

EVALUATIONS = (4, 5, 6, 8, 10, 15)
# Of the default and the simple rules alone.
OTHERS = (7, 9, 11, 12, 13, 14, 16, 20, 24, 28, 32, 36, 40, 44, 48, 50)
SIMPLE = {
    "Euler": ("euler", {}),
    "midpoint": ("midpoint", {"coordinate": "flow"}),
    "Heun": ("heun", {"coordinate": "flow"}),
}
# ComfyUI's usual samplers without fresh noise, ddim being its euler, on the grids of its menu that are used most.
MENU = ("ddim", "lms", "dpmpp_2m", "unipc, order 3", "ipndm", "res_multistep")
MENU_GRIDS = ("simple", "normal", "sgm_uniform", "beta", "kl_optimal", "linear_quadratic")
# What runs on networks, where an evaluation takes a hundred times as long.
SHORT = (
    *("dpmpp_2m", "unipc", "unipc, order 3", "ipndm, order 2", "lms", "gradient_estimation", "dpm_solver_2m"),
    *("deis_log_rho", "res_multistep", "adams_moulton", "midpoint", "heun, flow"),
)
SAMPLES, NETWORK_SAMPLES = 64, 12


def problems() -> Iterator[Problem]:
    """Exact mixtures on every kind of schedule, the problems of bench.quality, and the networks that ship."""
    return chain(judged_on(), (mixture(), smoothed_digits(), digits(), digits(guidance=3.0)), network_problems())


def is_exact(problem: Problem) -> bool:
    """Not a network."""
    return problem.dtype == torch.float64


@dataclass(frozen=True)
class Judge:
    """A problem, its seeds and their converged samples."""

    problem: Problem
    seeds: list[int]
    exact: Tensor

    def row(self, kind: str, solver: str, grid: str, nfe: int, drawn: fd.Plan | tuple[Tensor, int]) -> dict:
        """kind, solver, grid and nfe, what was spent of it, and the errors."""
        x, spent = (self.problem.draw(drawn, self.seeds), drawn.nfe) if isinstance(drawn, fd.Plan) else drawn
        return {"kind": kind, "solver": solver, "nfe": nfe, "grid": grid, "spent": spent, **measured(x, self.exact)}


def ours(judge: Judge) -> Iterator[dict]:
    """The default."""
    for nfe in (*EVALUATIONS, *OTHERS):
        plan = default(judge.problem, nfe)
        yield judge.row("default", "default", plan.grid, nfe, plan)


def simple(judge: Judge) -> Iterator[dict]:
    """Euler, midpoint and Heun on uniform times."""
    for nfe, (name, rule) in product((*EVALUATIONS, *OTHERS), SIMPLE.items()):
        if (plan := plan_within(judge.problem, rule, nfe, "time")) is not None:
            yield judge.row("simple", name, "time", nfe, plan)


def others(judge: Judge) -> Iterator[dict]:
    """Every solver on every grid, and other packages' samplers."""
    problem = judge.problem
    for nfe, (name, grid) in product(EVALUATIONS, entered(problem)):
        if (plan := plan_within(problem, contestants()[name], nfe, grid)) is not None:
            yield judge.row("catalogue", name, grid, nfe, plan)
    samplers = peers.defaults(problem) | official.dpm_solver(problem) if is_exact(problem) else {}
    for nfe, ((name, grid), sampler) in product(EVALUATIONS, samplers.items()):
        if (drawn := peers.draw(problem, sampler, judge.seeds, nfe)) is not None:
            yield judge.row("peers", name, grid, nfe, drawn)


def entered(problem: Problem) -> Iterator[tuple[str, str]]:
    """Contestants and their grids."""
    if not is_exact(problem):
        return product(SHORT, GRIDS)
    return chain(product(contestants(), grids(problem)), product(MENU, MENU_GRIDS))


PARTS = {"default": ours, "simple": simple, "catalogue": others}  # the kind of the first rows of each


def default(problem: Problem, evaluations: int) -> fd.Plan:
    """What `fd.plan` makes without a solver."""
    guided = problem.guidance is not None
    return fd.plan(None, problem.schedule, evaluations, prediction=problem.prediction, guided=guided)


def grids(problem: Problem) -> tuple[str, ...]:
    """quality's, and those of whole training indices where there are any."""
    return (*GRIDS, "trailing", "linspace") if problem.schedule.num_train_timesteps else GRIDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="first letters of problems (default: all)")
    parser.add_argument("--samples", type=int, help=f"default: {SAMPLES}, of networks {NETWORK_SAMPLES}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--store", type=Path, default=Path("build/defaults.json"), help="what has been measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.store.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = Store(arguments.store)
    for problem in problems():
        missing = [part for part in PARTS if not store.has({"problem": problem.name, "kind": part})]
        if problem.name.startswith(tuple(arguments.only)) and missing:
            samples = SAMPLES if is_exact(problem) else NETWORK_SAMPLES
            study = Study(problem, arguments.samples or samples, 0)
            seeds = list(range(study.samples))
            judge = Judge(problem, seeds, study.converged(seeds))
            for part in missing:
                store.add({"problem": problem.name, "schedule": kind(problem)}, list(PARTS[part](judge)))
            print(problem.name, flush=True)
    defaults_report.write(store, arguments.out)


def kind(problem: Problem) -> str:
    """The part of the report that a problem belongs to."""
    if problem.guidance is not None:
        return "guided"
    return problem.schedule.kind if is_exact(problem) else "network"


if __name__ == "__main__":
    main()

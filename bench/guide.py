"""What docs/choosing.md says beyond bench.quality: stochastic solvers, adaptive step size, inversion.

python -m bench.guide       # a few minutes on one core; writes bench/results/guide.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import fastdiff as fd

from .digits_metrics import frechet_of_samples
from .machine import processor
from .problems import Problem, digits, mixture
from .quality import Study, measured, plan_within

PATH = Path(__file__).parent / "results" / "guide.md"
EVALUATIONS = (10, 20, 40, 80)
STOCHASTIC = ("ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "er_sde", "sa_solver", "seeds_2")
TOLERANCES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
STEPS = (10, 20, 50, 100)


def stochastic(samples: int = 4000) -> Iterator[str]:
    """Frechet distance of samples from the mixture's own moments; the ODE's converged samples have 0.004."""
    problem, seeds = mixture(), list(range(10_000, 10_000 + samples))
    yield row("solver", *(f"{n}" for n in EVALUATIONS))
    yield rule(1 + len(EVALUATIONS))
    for name in ("ddim", "dpmpp_2m", "unipc", *STOCHASTIC):
        plans = [plan_within(problem, (name, {}), nfe, "karras") for nfe in EVALUATIONS]
        distances = [frechet_of_samples(in_parts(problem, plan, seeds), *problem.moments) for plan in plans]
        yield row(name, *(f"{d['frechet']:.3f}" for d in distances))


def in_parts(problem: Problem, plan: fd.Plan, seeds: list[int]) -> Tensor:
    return torch.cat([problem.draw(plan, seeds[i : i + 500]) for i in range(0, len(seeds), 500)]).numpy()


def adaptive(problem: Problem, samples: int = 64) -> Iterator[str]:
    """sample_adaptive by its tolerance, and the fixed steps of as many evaluations."""
    seeds = list(range(samples))
    exact = Study(problem, samples, 0).converged(seeds)
    noise, conditions = problem.noise(seeds), problem.conditions(seeds)
    grid = problem.converged_grid
    yield row("rtol", "evaluations", "median", "RMSE", f"unipc on {grid}, median", "RMSE")
    yield rule(6)
    for rtol in TOLERANCES:
        calls = [0]
        x = fd.sample_adaptive(
            counted(problem.model, calls), problem.schedule, noise,
            rtol=rtol, atol=rtol / 10, prediction=problem.prediction, **conditions,
        )  # fmt: skip
        ours, fixed = measured(x, exact), measured(problem.draw(problem.plan("unipc", calls[0], grid), seeds), exact)
        yield row(f"{rtol}", f"{calls[0]}", *(f"{e[size]:.4f}" for e in (ours, fixed) for size in ("median", "rmse")))


def counted(model: Callable, calls: list[int]) -> Callable:
    def counts(x: Tensor, t: Tensor, **conditions: object) -> Tensor:
        calls[0] += 1
        return model(x, t, **conditions)

    return counts


def inversion(samples: int = 64) -> Iterator[str]:
    """From samples of the shipped network to noise and back, with as many steps each way."""
    problem, seeds = digits(), list(range(samples))
    images = Study(problem, samples, 0).converged(seeds)
    conditions = problem.conditions(seeds)
    yield row("solver", *(f"{n} steps" for n in STEPS))
    yield rule(1 + len(STEPS))
    for solver in ("ddim", "dpmpp_2m", "heun", "unipc"):
        errors = []
        for steps in STEPS:
            there = problem.plan(solver, steps, "time", invert=True)
            back = problem.plan(solver, steps, "time")
            noise = fd.sample(problem.model, there, images, **conditions) / back.init_scale
            returned = fd.sample(problem.model, back, noise, **conditions)
            errors.append(measured(returned, images)["median"])
        yield row(solver, *(f"{error:.4f}" for error in errors))


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return "|" + "---|" * columns


def main() -> None:
    torch.set_num_threads(1)
    sections = (
        (
            "Stochastic solvers",
            "Frechet distance of 4000 samples from the Gaussian mixture's own mean and covariance, by the number of"
            " model evaluations, on the karras grid of Schedule.edm(). Samples without any solver error measure 0.004.",
            stochastic(),
        ),
        (
            "Adaptive step size, the mixture",
            "Distance from the converged samples of 64 noises, atol = rtol / 10, and that of a fixed grid with as many"
            " evaluations.",
            adaptive(mixture()),
        ),
        ("Adaptive step size, the shipped digits network", "The same.", adaptive(digits())),
        (
            "Inversion",
            "64 samples of the shipped digits network to noise and back, with as many steps each way on the time grid:"
            " the median distance between what came back and the image.",
            inversion(),
        ),
    )
    made = f"`python -m bench.guide`, torch {torch.__version__}, {processor()}."
    text = [f"# What the guide to solvers says besides\n\n{made}"]
    for title, what, lines in sections:
        text.append(f"## {title}\n\n{what}\n\n" + "\n".join(lines))
    PATH.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()

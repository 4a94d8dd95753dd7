"""Corrections of runs given an observation, on problems whose posterior is known.

    python -m bench.posterior_gains                          # into bench/results/posterior_gains.md
    python -m bench.posterior_gains --out build/quick

A smooth Gaussian field of 32 elements under a mask, pooling and a blur: what is linear maps Gaussians to Gaussians, so
from noise of mean 0 and covariance 1 to rounding the law of the samples follows without an error of sampling. A mixture
of two Gaussians: how often samples are of the mode that has 9 in 10 of the posterior.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.posterior import GaussianPrior, Gradient, Moment, Proximal, Pseudoinverse
from fastdiff.posterior.method import Method

from .markdown import number, table
from .posterior_problems import (
    DTYPE,
    FIELD_NOISE,
    FIELD_SIZE,
    FIELD_STD,
    UPPER_SHARE,
    Network,
    Problem,
    fields,
    two_modes,
    upper_share,
)

STEPS = (20, 50)
SCHEDULE = fd.Schedule.edm(0.002, 50.0)
SAMPLES, MODE_SAMPLES = 256, 20000


def prior(covariance: Tensor, rank: int) -> fd.GaussianStart:
    """The field's, of this rank and the mean of the other variances."""
    size = len(covariance)
    whole = fd.GaussianStart.from_covariance(torch.zeros(size, dtype=covariance.dtype), covariance, SCHEDULE)
    left = float(whole.variances[: size - rank].mean()) if rank < size else 0.0
    return fd.GaussianStart(whole.mean, whole.basis[size - rank :], whole.variances[size - rank :], left, whole.start)


def methods(covariance: Tensor) -> dict[str, Method]:
    found: dict[str, Method] = {f"Moment({k})": Moment(k) for k in (1, 3, 10)}
    found["Moment(1, prior of rank 8)"] = Moment(1, prior(covariance, 8))
    found |= {f"GaussianPrior(rank {rank})": GaussianPrior(prior(covariance, rank)) for rank in (32, 12, 8, 4)}
    found |= {f"Proximal({strength:g})": Proximal(strength, iterations=20) for strength in (1.0, 7.0)}
    found[f"Proximal(spread={FIELD_STD})"] = Proximal(spread=FIELD_STD, iterations=20)
    found["Pseudoinverse()"] = Pseudoinverse()
    return found | {f"Gradient({spread})": Gradient(spread) for spread in (0.1, 0.01)}


def unit_noise(count: int, size: int) -> Tensor:
    noise = torch.randn(count, size, dtype=DTYPE, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean(0)
    return noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov()).T)


def drawn(problem: Problem, method: Method, steps: int, noise: Tensor) -> Tensor:
    """Samples given the problem's observation."""
    plan = fd.plan("dpm_solver_2m", SCHEDULE, steps, grid="karras", prediction="sample")
    observation = fd.Observation(problem.A, problem.y, noise=problem.noise)
    network = Network(problem.mean)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x, 1.0, sigma[0])

    x = fd.sample(denoiser, plan, noise, observation=observation, correction=method)
    assert isinstance(x, Tensor)
    return x


def error(problem: Problem, method: Method, steps: int) -> float:
    """Of the law of the samples given one observation."""
    return problem.error(drawn(problem, method, steps, unit_noise(SAMPLES, problem.A.shape[1])))


def mode_share(problem: Problem, method: Method, steps: int) -> float:
    noise = fd.noise.randn((MODE_SAMPLES, 2), range(MODE_SAMPLES), dtype=DTYPE)
    return upper_share(drawn(problem, method, steps, noise))


def shown(error: float) -> str:
    return number(error) if error < 1 else "> 1"


def report() -> str:
    problems, modes = list(fields(SAMPLES)), two_modes()
    errors = [
        [f"`{name}`", *(shown(error(problem, method, steps)) for problem in problems for steps in STEPS)]
        for name, method in methods(problems[0].covariance).items()
    ]
    shares = [
        [f"`{name}`", *(f"{mode_share(modes, method, steps):.3f}" for steps in (20, 100, 400))]
        for name, method in (("Moment(3)", Moment(3)), ("Gradient(0.1)", Gradient(0.1)), ("Proximal(1)", Proximal()))
    ]
    return "\n\n".join([
        "# Corrections on known posteriors",
        "`python -m bench.posterior_gains`, float64, DPM-Solver++ 2M on the Karras grid, sigma 50 to 0.002;"
        f" {FIELD_NOISE} of noise on a smooth Gaussian field of {FIELD_SIZE} elements of standard deviation"
        f" {FIELD_STD}. The 2-Wasserstein distance between the samples' law and the posterior, over the root of the"
        " dimension, for one observation.",
        table(["", *(f"{p.name}, {steps} steps" for p in problems for steps in STEPS)], errors),
        f"The share of samples in the mode that has {UPPER_SHARE:.3f} of the posterior, of a mixture of two"
        f" ({MODE_SAMPLES} samples, standard error 0.002).",
        table(["", "20 steps", "100 steps", "400 steps"], shares),
    ]) + "\n"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "correction: 'gradient'")
        (out / "posterior_gains.md").write_text(report())


if __name__ == "__main__":
    main()

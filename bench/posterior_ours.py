"""fastdiff's corrections on the problems, and what runs have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

import fastdiff as fd

from .posterior_problems import DTYPE, Network, Problem

Method = Callable[[Problem, Network, Tensor, int], Tensor]  # (problem, network, unit noise [B, D], calls) -> x0 [B, D]
SIGMAS = (0.002, 50.0)
PLANS = tuple(product(("dpm_solver_2m", "dpmpp_3m_exact"), ("karras", "logsnr", "quadratic")))
SCHEDULE = fd.Schedule.edm(*SIGMAS)


def unit_noise(samples: int, size: int, seed: int) -> Tensor:
    """[B, D] of mean 0 and covariance 1 to rounding: what is linear in it has no error of sampling."""
    noise = torch.randn(samples, size, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)
    noise = noise - noise.mean(0)
    return noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov()).T)


def ours(
    correction: Callable[[Problem], object], solver: str = "dpm_solver_2m", grid: str = "karras", weighted: bool = False
) -> Method:
    """fastdiff.sample with this correction. weighted: as one group of particles, resampled to equal weights."""

    def run(problem: Problem, network: Network, noise: Tensor, calls: int) -> Tensor:
        plan = fd.plan(solver, SCHEDULE, calls, grid=grid, prediction="sample")
        observation = fd.Observation(problem.A, problem.y, noise=problem.noise)
        given = {"observation": observation, "correction": correction(problem)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "correction: 'gradient'")
            x0 = fd.sample(
                lambda x, t: network(x, 1.0, t[0]), plan, noise, particles=len(noise) if weighted else 1, **given
            )
        return x0[1].resampled(x0[0], torch.randint(2**31, (1,))) if weighted else x0

    return run


def prior(problem: Problem) -> fd.GaussianStart:
    """The data's own covariance and mean 0, as an estimate from very many samples has them."""
    return fd.GaussianStart.from_covariance(torch.zeros(len(problem.covariance)).double(), problem.covariance, SCHEDULE)


def methods() -> dict[str, list[Method]]:
    """By name, the settings of which the best counts. One plan, 2M on Karras' grid, where the name says no other."""
    posterior = fd.posterior

    def moment(problem: Problem) -> object:
        return posterior.Moment(3)

    def gaussian(problem: Problem) -> object:
        return posterior.GaussianPrior(prior(problem))

    def proximal(strength: float) -> Callable[[Problem], object]:
        return lambda problem: posterior.Proximal(strength, float(problem.covariance.diagonal().mean() ** 0.5))

    def gradient(spread: float) -> Callable[[Problem], object]:
        return lambda problem: posterior.Gradient(spread)

    return {
        "moment, 3 iterations": [ours(moment)],
        "moment, 3 iterations, its best plan": [ours(moment, *plan) for plan in PLANS],
        "moment, 3 iterations, ancestral": [ours(moment, "euler_ancestral")],
        "moment, 3 iterations, particles": [ours(moment, "euler_ancestral", weighted=True)],
        "gradient, particles": [ours(gradient(0.1), "euler_ancestral", weighted=True)],
        "moment, 6 iterations": [ours(lambda problem: posterior.Moment(6))],
        "moment, 10 iterations": [ours(lambda problem: posterior.Moment(10))],
        "moment, 1 iteration with a prior": [ours(lambda problem: posterior.Moment(1, prior(problem)))],
        "gaussian": [ours(gaussian)],
        "gaussian, its best plan": [ours(gaussian, *plan) for plan in PLANS],
        "proximal": [ours(proximal(1.0))],
        "proximal, its best strength": [ours(proximal(strength)) for strength in (0.3, 1.0, 3.0, 10.0)],
        "pseudoinverse": [ours(lambda problem: "pseudoinverse")],
        "gradient": [ours(gradient(0.1))],
        "gradient, its best spread": [ours(gradient(spread)) for spread in (0.001, 0.01, 0.1, 1.0)],
    }

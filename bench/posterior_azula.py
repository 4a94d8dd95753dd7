"""azula's posterior samplers on the problems, by the classes of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .posterior_ours import SIGMAS, Method
from .posterior_problems import DTYPE, Network, Problem

MULTISTEP = ("vABSampler", "xEABSampler", "REABSampler")


def schedules() -> dict[str, Any]:
    """Three of its own; times are even in all, so they say the grid, too."""
    from azula import noise

    return {
        "VE": noise.VESchedule(*SIGMAS),
        "VP": noise.VPSchedule(),
        "rectified": noise.RectifiedSchedule(),
    }


def denoiser(problem: Problem, network: Network, schedule: Any) -> Any:
    """The exact one, as its Denoiser."""
    from azula.denoise import Denoiser, DiracPosterior

    class Exact(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, **kwargs: object) -> DiracPosterior:
            return DiracPosterior(mean=network(x_t, *self.schedule(t)))

    exact = Exact()
    exact.schedule = schedule
    return exact


Build = Callable[[Problem, Any, dict[str, Any], int], Any]  # (problem, denoiser, the sampler's options, samples)


def run_with(schedule: str, build: Build) -> Method:
    def run(problem: Problem, network: Network, noise: Tensor, calls: int) -> Tensor:
        options = {"steps": calls, "silent": True, "dtype": DTYPE}
        sampler = build(problem, denoiser(problem, network, schedules()[schedule]), options, len(noise))
        alpha, sigma = sampler.denoiser.schedule(sampler.timesteps[0])
        variance = problem.covariance.diagonal().mean()  # its `init` takes the data's
        return sampler(noise * torch.sqrt(alpha**2 * variance + sigma**2))

    return run


def posterior_denoiser(name: str, problem: Problem, inner: Any, **options: object) -> Any:
    """One of azula.guidance's, with the noise as it wants it."""
    from azula import guidance
    from azula.linalg.covariance import FullCovariance, IsotropicCovariance

    A, variance = (lambda x: x @ problem.A.T), problem.noise**2
    if name in ("MMPSDenoiser", "JFPSDenoiser"):
        options["cov_y"] = IsotropicCovariance(torch.tensor(variance, dtype=DTYPE))
    else:
        options["var_y"] = variance
    if name == "JFPSDenoiser":
        values, vectors = torch.linalg.eigh(problem.covariance)
        options["cov_x"] = FullCovariance(vectors, values.clamp(min=1e-12))
    return getattr(guidance, name)(inner, problem.y, A, **options)


def of_denoiser(name: str, sampler: str = "DDIMSampler", **options: object) -> Build:
    from azula import sample

    def build(problem: Problem, inner: Any, given: dict[str, Any], samples: int) -> Any:
        return getattr(sample, sampler)(posterior_denoiser(name, problem, inner, **options), **given)

    return build


def dps(problem: Problem, inner: Any, given: dict[str, Any], samples: int) -> Any:
    """It divides by the norm over the whole batch: as many times the strength is that of samples by themselves."""
    from azula.guidance import DPSSampler

    return DPSSampler(inner, problem.y, lambda x: x @ problem.A.T, zeta=math.sqrt(samples), **given)


def pgdm(problem: Problem, inner: Any, given: dict[str, Any], samples: int) -> Any:
    from azula.guidance import PGDMSampler

    return PGDMSampler(inner, problem.y, lambda x: x @ problem.A.T, lambda y: y @ problem.pinv.T, **given)


def tds(problem: Problem, inner: Any, given: dict[str, Any], samples: int) -> Any:
    """All samples as one group of particles; the twist is left to the user: PiGDM's, without gradients of its own."""
    from azula.guidance import TDSSampler

    def twist(x0: Tensor, ratio: Tensor) -> Tensor:
        spread = 1 / (1 / ratio**2 + 1 / problem.covariance.diagonal().mean())
        variance = problem.noise**2 + spread * problem.A.square().sum(1)
        return torch.distributions.Normal(x0 @ problem.A.T, variance.sqrt(), validate_args=False).log_prob(problem.y)

    return TDSSampler(inner, twist, **given)


def methods() -> dict[str, list[Method]]:
    """By name, every schedule and sampler that the best is taken of."""
    kinds: dict[str, list[Build]] = {
        "azula MMPS, as it comes (1 iteration), DDIM": [of_denoiser("MMPSDenoiser")],
        "azula MMPS, 3 iterations, DDIM": [of_denoiser("MMPSDenoiser", iterations=3)],
        "azula MMPS, 3 iterations, its best multistep sampler": [
            of_denoiser("MMPSDenoiser", sampler, iterations=3) for sampler in MULTISTEP
        ],
        "azula JFPS, true covariance, 20 iterations, DDIM": [of_denoiser("JFPSDenoiser", iterations=20)],
        "azula JFPS, true covariance, 20 iterations, its best multistep sampler": [
            of_denoiser("JFPSDenoiser", sampler, iterations=20) for sampler in MULTISTEP
        ],
        "azula TMPD, DDIM": [of_denoiser("TMPDenoiser")],
        "azula PGDM": [pgdm],
        "azula DiffPIR, DDIM": [of_denoiser("DiffPIRDenoiser", iterations=5, lmbda=value) for value in (1.0, 10.0)],
        "azula DPS": [dps],
        "azula TDS, particles": [tds],
    }
    return {name: [run_with(s, build) for build in builds for s in schedules()] for name, builds in kinds.items()}

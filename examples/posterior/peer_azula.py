"""azula's samplers."""

from __future__ import annotations

import math

from azula import guidance, sample
from azula.denoise import Denoiser, DiracPosterior
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import VPSchedule
from torch import Tensor

from .methods import Draw
from .peers import real_measurements
from .problem import Network, Problem


class Wrapped(Denoiser):
    """A network as azula's denoiser, on the schedule of its documentation, up to noise that the networks have seen."""

    schedule = VPSchedule(alpha_min=0.01)

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
        alpha, sigma = self.schedule(t)
        return DiracPosterior(self.model.denoised(x_t / alpha, float(sigma / alpha)))


def run(sampler: sample.Sampler, problem: Problem, members: int) -> Tensor:
    return sampler(sampler.init((members * len(problem.truth), *problem.net.shape)))


def mmps(iterations: int) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        A, y = real_measurements(problem, members)
        noise = IsotropicCovariance(problem.noise**2)
        denoiser = guidance.MMPSDenoiser(Wrapped(model), y, A, noise, iterations=iterations)
        steps = passes // (iterations + 2)
        return run(sample.DDIMSampler(denoiser, steps=steps, silent=True), problem, members)

    return draw


def dps(zeta: float) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        A, y = real_measurements(problem, members)
        # The norm of its residual is the whole batch's: the strength of one sample goes with the root of B.
        zeta_of_all = zeta * math.sqrt(len(y))
        sampler = guidance.DPSSampler(Wrapped(model), y, A, zeta=zeta_of_all, steps=passes // 2, silent=True)
        return run(sampler, problem, members)

    return draw


def diffpir(strength: float) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        A, y = real_measurements(problem, members)
        denoiser = guidance.DiffPIRDenoiser(Wrapped(model), y, A, problem.noise**2, lmbda=strength, iterations=5)
        return run(sample.DDPMSampler(denoiser, steps=passes, silent=True), problem, members)

    return draw


def methods(problem: Problem) -> dict[str, dict[str, Draw]]:
    return {
        "azula MMPS": {f"{k} iterations": mmps(k) for k in (1, 3)},
        "azula DPS": {f"zeta {zeta}": dps(zeta) for zeta in (0.3, 1, 3)},
        "azula DiffPIR": {f"lambda {strength}": diffpir(strength) for strength in (1, 10)},
    }

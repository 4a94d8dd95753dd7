"""Members drawn by each correction, with an equal number of passes through the network."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import posterior
from fastdiff.posterior.method import Method

from .problem import Gaussian, Network, Problem

Draw = Callable[[Network, Problem, int, int], Tensor]  # network, problem, members M, passes -> [M N, ...]
# Runs begin where x knows something of x0: at alpha = 0, the begin of some schedules, "moment" could not correct D.
LOG_SNR_MIN = -5.0


@dataclass(frozen=True)
class Members:
    """Members [M, N, ...] of a method. passes: through the network, for each; seconds: for all."""

    name: str
    x: Tensor
    passes: float
    seconds: float


def drawn(name: str, draw: Draw, problem: Problem, members: int, passes: int) -> Members:
    """What a method draws, watched."""
    model, begin = Network(problem.net), time.perf_counter()
    torch.manual_seed(0)  # of the peers; fastdiff's members have seeds of their own
    x = draw(model, problem, members, passes)
    seconds = time.perf_counter() - begin
    return Members(name, x.unflatten(0, (members, -1)).float(), model.passes / len(x), seconds)


def by(correction: Method | str, per_step: int = 1, solver: str = "dpm_solver_2m", **options: float) -> Draw:
    """A correction whose steps take so many passes each."""

    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        net = problem.net
        count = members * len(problem.truth)
        plan = fd.plan(
            solver, net.schedule, max(passes // per_step, 2), grid="karras", prediction=net.prediction,
            log_snr_min=LOG_SNR_MIN, **options,
        )  # fmt: skip
        noise = fd.noise.randn((count, *net.shape), range(count))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "correction: 'gradient'")  # few steps, in quick runs
            observation = problem.observation(members)
            return fd.sample(model, plan, noise, observation=observation, correction=correction, seeds=range(count))

    return draw


def without_network(prior: fd.GaussianStart) -> Draw:
    """The posterior of Gaussian data: optimal interpolation, or Kalman's."""

    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        net, count = problem.net, members * len(problem.truth)
        plan = fd.plan("dpm_solver_2m", net.schedule, min(passes, 30), grid="karras", prediction="sample")
        noise = fd.noise.randn((count, *net.shape), range(count))
        correction = posterior.GaussianPrior(prior)
        return fd.sample(
            Gaussian(net, prior), plan, noise, observation=problem.observation(members), correction=correction
        )

    return draw


def ours(problem: Problem, prior: fd.GaussianStart, spread: float) -> dict[str, dict[str, Draw]]:
    """For each of fastdiff's corrections, what is tried of it: {correction: {strength: draw}}.

    spread: the data's standard deviation, for the proximal one.
    """
    found = {
        "Gaussian data": {"": without_network(prior)},
        "moment": {"": by("moment", 5)},  # an evaluation and four products with its Jacobian
        "moment with a prior": {"": by(posterior.Moment(3, prior), 5)},
        "gaussian": {"": by(posterior.GaussianPrior(prior), 3)},  # fewer passes: more bring nothing
        "proximal": {f"strength {v}": by(posterior.Proximal(v, spread), solver="ddpm") for v in (1, 5)},
        "gradient": {f"spread {v}": by(posterior.Gradient(v), 2) for v in (0.1, 0.3, 1)},
    }
    if problem.pinv is not None:
        found["pseudoinverse"] = {"": by("pseudoinverse", solver="ddpm")}
    return found

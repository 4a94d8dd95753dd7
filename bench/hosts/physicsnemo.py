"""PhysicsNeMo's deterministic and stochastic samplers, and its `sample`, beside fastdiff's in their places."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from physicsnemo.diffusion import samplers as theirs
from physicsnemo.diffusion.noise_schedulers import EDMNoiseScheduler
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts import physicsnemo as ours

from ..mixtures import Mean
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

PACKAGE = "nvidia-physicsnemo"


class Net:
    """An exact D(x, x_lr, sigma, labels) that knows every level."""

    sigma_min, sigma_max = 0.0, float("inf")

    def __init__(self, mean: Mean) -> None:
        self.mean, self.calls = mean, 0

    def round_sigma(self, sigma: object) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, x_lr: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        level = sigma.double()
        return self.mean(x.flatten(1).double(), torch.ones_like(level), level).view_as(x)


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        net, noise = Net(mean_of(shape, 0.5)), start(shape)[:, None, :, None]
        yield from deterministic(f"deterministic_sampler, {shape.name}", net, noise)
        yield from stepwise(f"sample, EDM, {shape.name}", net, noise)


def converged(net: Net, noise: Tensor) -> Tensor:
    plan = fd.plan("dpm_solver_2m", fd.Schedule.edm(1e-4, 80.0), 1000, grid="logsnr", prediction="sample")
    return fd.sample(lambda x, t: net(x, x, t[0]), plan, noise)


def deterministic(use: str, net: Net, noise: Tensor) -> Iterator[Row]:
    """Heun makes 2 n - 1 evaluations: of an even count, Euler alone can be had, and Heun's of one more stands there."""
    exact = converged(net, noise)
    for n in (*EVALUATIONS, 35):
        for solver in ("heun", "euler") if n < 35 else ("heun",):
            steps = n // 2 + 1 if solver == "heun" else n
            own, same = (
                s.deterministic_sampler(net, noise, noise, num_steps=steps, solver=solver) for s in (theirs, ours)
            )
            net.calls = 0
            best = ours.deterministic_sampler(net, noise, noise, num_steps=n)
            assert net.calls == n
            name = "heun, one more where even" if solver == "heun" else solver
            found = (name, error(own, exact), "default", error(best, exact))
            yield Row("physicsnemo", version(PACKAGE), use, n, *found, parity(same, own), n == 35)


def stepwise(use: str, net: Net, noise: Tensor) -> Iterator[Row]:
    scheduler, exact = EDMNoiseScheduler(), converged(net, noise)
    denoiser = scheduler.get_denoiser(x0_predictor=lambda x, t: net(x, x, t[0]))
    for n in EVALUATIONS:
        made = ours.PlanSolver(denoiser, scheduler, n)
        euler, same, best = (
            theirs.sample(denoiser, 80.0 * noise, scheduler, n, solver=solver)
            for solver in ("euler", ours.PlanSolver(denoiser, scheduler, n, "euler"), made)
        )
        found = ("euler", error(euler, exact), "PlanSolver", error(best, exact))
        yield Row("physicsnemo", version(PACKAGE), use, n, *found, parity(same, euler))

"""deepinv's samplers. DPS computes with data in [-1, 1], the others in [0, 1]."""

from __future__ import annotations

import deepinv
import numpy as np
import torch
from torch import Tensor

from .methods import Draw
from .peers import real_measurements
from .problem import Network, Problem


class Scaled:
    """A problem in other units u from `least` to 1: x = zero + unit u, so that y_u = (y - A zero) / unit."""

    def __init__(self, problem: Problem, members: int, least: float = 0.0) -> None:
        self.problem, self.unit = problem, (problem.high - problem.low) / (1 - least)
        self.zero = problem.high - self.unit
        self.A, y = real_measurements(problem, members)
        self.shape = (len(y), *problem.net.shape)
        self.y = (y - self.A(torch.full((1, *problem.net.shape), self.zero))) / self.unit
        self.noise = deepinv.physics.GaussianNoise(problem.noise / self.unit)

    def physics(self) -> deepinv.physics.LinearPhysics:
        return deepinv.physics.LinearPhysics(A=self.A, A_adjoint=self.adjoint, noise_model=self.noise)

    def adjoint(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.zeros(len(v), *self.shape[1:], requires_grad=True)
            return torch.autograd.grad(self.A(x), x, v)[0]

    def back(self, u: Tensor) -> Tensor:
        return self.zero + self.unit * u


class Wrapped(deepinv.models.Denoiser):
    """A network as deepinv's denoiser."""

    def __init__(self, model: Network, scaled: Scaled) -> None:
        super().__init__()
        self.model, self.scaled = model, scaled

    def forward(self, u: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
        s = float(torch.as_tensor(sigma).flatten()[0]) * self.scaled.unit
        return (self.model.denoised(self.scaled.back(u), s) - self.scaled.zero) / self.scaled.unit


def dps(weight: float) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        scaled = Scaled(problem, members, -1.0)
        generator = torch.Generator().manual_seed(0)
        sampler = deepinv.sampling.DPS(Wrapped(model, scaled), num_steps=passes // 2, weight=weight, rng=generator)
        return scaled.back(sampler(scaled.y, scaled.physics(), x_init=scaled.shape, seed=1))

    return draw


def diffpir(strength: float) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        scaled = Scaled(problem, members)
        fidelity = deepinv.optim.data_fidelity.L2()
        sampler = deepinv.sampling.DiffPIR(Wrapped(model, scaled), fidelity, max_iter=passes, lambda_=strength)
        start = torch.full(scaled.shape, 0.5)
        return scaled.back(sampler(scaled.y, scaled.physics(), seed=1, x_init=start))

    return draw


def ddrm(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
    """Of a mask, which is its own singular value decomposition."""
    assert problem.seen is not None
    assert problem.pinv is not None
    scaled = Scaled(problem, members)
    mask = problem.seen.expand(problem.net.shape).clone()
    physics = deepinv.physics.Inpainting(img_size=problem.net.shape, mask=mask, noise_model=scaled.noise)
    levels = np.geomspace(40.0, 0.005, passes)
    return scaled.back(deepinv.sampling.DDRM(Wrapped(model, scaled), sigmas=levels)(problem.pinv(scaled.y), physics))


def methods(problem: Problem) -> dict[str, dict[str, Draw]]:
    found = {
        "deepinv DPS": {f"weight {weight}": dps(weight) for weight in (10, 100)},
        "deepinv DiffPIR": {f"lambda {strength}": diffpir(strength) for strength in (1, 7)},
    }
    return found | ({"deepinv DDRM": {"": ddrm}} if problem.seen is not None else {})

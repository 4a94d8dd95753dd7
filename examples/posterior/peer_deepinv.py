"""deepinv's samplers, whose data lie in [0, 1]."""

from __future__ import annotations

import deepinv
import numpy as np
import torch
from torch import Tensor

from .methods import Draw
from .peers import real_measurements
from .problem import Network, Problem


class Scaled:
    """A problem in deepinv's units: x = low + size x01, so that y01 = (y - A low) / size."""

    def __init__(self, problem: Problem, members: int) -> None:
        self.problem, self.low, self.size = problem, problem.low, problem.high - problem.low
        self.A, y = real_measurements(problem, members)
        self.shape = (len(y), *problem.net.shape)
        self.y = (y - self.A(torch.full((1, *problem.net.shape), self.low))) / self.size
        self.noise = problem.noise / self.size

    def physics(self) -> deepinv.physics.LinearPhysics:
        noise = deepinv.physics.GaussianNoise(self.noise)
        return deepinv.physics.LinearPhysics(A=self.A, A_adjoint=self.adjoint, noise_model=noise)

    def adjoint(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.zeros(len(v), *self.shape[1:], requires_grad=True)
            return torch.autograd.grad(self.A(x), x, v)[0]

    def back(self, x01: Tensor) -> Tensor:
        return self.low + self.size * x01


class Wrapped(deepinv.models.Denoiser):
    """A network as deepinv's denoiser."""

    def __init__(self, model: Network, scaled: Scaled) -> None:
        super().__init__()
        self.model, self.scaled = model, scaled

    def forward(self, x: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
        s = float(torch.as_tensor(sigma).flatten()[0]) * self.scaled.size
        return (self.model.denoised(self.scaled.back(x), s) - self.scaled.low) / self.scaled.size


def dps(weight: float) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        scaled = Scaled(problem, members)
        # A step evaluates the network twice, once with a product with its Jacobian; one evaluation ends the run.
        sampler = deepinv.sampling.DPS(
            Wrapped(model, scaled), num_steps=(passes - 1) // 3 + 1, weight=weight,
            rng=torch.Generator().manual_seed(0),
        )  # fmt: skip
        x = sampler(scaled.y, scaled.physics(), x_init=scaled.shape, seed=1)
        return scaled.back((x + 1) / 2)

    return draw


def diffpir(strength: float) -> Draw:
    def draw(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
        scaled = Scaled(problem, members)
        sampler = deepinv.sampling.DiffPIR(
            Wrapped(model, scaled), deepinv.optim.data_fidelity.L2(), max_iter=passes, lambda_=strength
        )
        start = torch.full(scaled.shape, 0.5)
        return scaled.back(sampler(scaled.y, scaled.physics(), seed=1, x_init=start))

    return draw


def ddrm(model: Network, problem: Problem, members: int, passes: int) -> Tensor:
    """Of a mask, which is its own singular value decomposition."""
    assert problem.seen is not None
    scaled = Scaled(problem, members)
    noise = deepinv.physics.GaussianNoise(scaled.noise)
    mask = problem.seen.expand(problem.net.shape)
    physics = deepinv.physics.Inpainting(img_size=problem.net.shape, mask=mask, noise_model=noise)
    levels = np.geomspace(40.0, 0.005, passes)
    return scaled.back(deepinv.sampling.DDRM(Wrapped(model, scaled), sigmas=levels)(scaled.y, physics, seed=1))


def methods(problem: Problem) -> dict[str, dict[str, Draw]]:
    found = {
        "deepinv DPS": {f"weight {weight}": dps(weight) for weight in (1, 10, 100)},
        "deepinv DiffPIR": {f"lambda {strength}": diffpir(strength) for strength in (1, 7)},
    }
    return found | ({"deepinv DDRM": {"": ddrm}} if problem.seen is not None else {})

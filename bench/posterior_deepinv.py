"""deepinv's posterior samplers on the problems, by the classes of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .posterior_ours import Method
from .posterior_problems import Network, Problem


class Denoiser(torch.nn.Module):
    """denoiser(u, sigma) of u = center + x / scale, [B, 1, 1, D]."""

    def __init__(self, network: Network, scale: float, center: float) -> None:
        super().__init__()
        self._network, self._scale, self._center = network, scale, center

    def forward(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        level = torch.as_tensor(sigma).flatten()[0] * self._scale
        x = self._network((u - self._center).flatten(1) * self._scale, 1.0, level)
        return self._center + (x / self._scale).view(u.shape)


def physics(problem: Problem, scale: float) -> Any:
    """A with rows of zeros until it is square, by its singular values, as DDRM and DiffPIR want it."""
    import deepinv

    size = problem.A.shape[1]
    square = torch.zeros(size, size, dtype=problem.A.dtype)
    square[: len(problem.A)] = problem.A
    left, values, right = torch.linalg.svd(square)
    image = (-1, 1, 1, size)

    def product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda v: (v.flatten(1) @ matrix.T.to(v.dtype)).view(image)

    return deepinv.physics.DecomposablePhysics(
        U=product(left), U_adjoint=product(left.T), V=product(right.T), V_adjoint=product(right),
        mask=values.float().view(1, 1, 1, size), noise_model=deepinv.physics.GaussianNoise(problem.noise / scale),
    )  # fmt: skip


def measured(problem: Problem, scale: float, center: float, count: int) -> Tensor:
    """y of u = center + x / scale, with as many zeros as A has rows too few."""
    y = torch.zeros(count, 1, 1, problem.A.shape[1])
    y[..., : len(problem.A)] = (problem.y / scale + center * problem.A.sum(1)).float()
    return y


def ddrm(problem: Problem, network: Network, noise: Tensor, calls: int) -> Tensor:
    """The data in [-1, 1], its noise levels from 1 to 0."""
    from deepinv.sampling import DDRM

    scale = problem.reach
    sampler = DDRM(Denoiser(network, scale, 0.0), sigmas=np.linspace(1, 0, calls))
    return scale * sampler(measured(problem, scale, 0.0, len(noise)), physics(problem, scale)).flatten(1)


def diffpir(strength: float) -> Method:
    def run(problem: Problem, network: Network, noise: Tensor, calls: int) -> Tensor:
        """The data in [0, 1]: it shifts them to [-1, 1] and clips them there."""
        from deepinv.optim.data_fidelity import L2
        from deepinv.sampling import DiffPIR

        scale, level = 2 * problem.reach, problem.noise / (2 * problem.reach)
        sampler = DiffPIR(Denoiser(network, scale, 0.5), L2(), sigma=level, max_iter=calls, lambda_=strength)
        u = sampler(measured(problem, scale, 0.5, len(noise)), physics(problem, scale))
        return scale * (u.flatten(1) - 0.5)

    return run


def dps(weight: float) -> Method:
    def run(problem: Problem, network: Network, noise: Tensor, calls: int) -> Tensor:
        """The data in [-1, 1], where it clips them."""
        from deepinv.sampling import DPS

        scale = problem.reach
        inner = Denoiser(network, scale, 0.0)
        sampler = DPS(inner, num_steps=calls, weight=weight, dtype=torch.float32, minus_one_one=False)
        return _posterior(sampler, problem, scale, noise)

    return run


def posterior_diffusion(weight: float, alpha: float, solver: str) -> Method:
    def run(problem: Problem, network: Network, noise: Tensor, calls: int) -> Tensor:
        """Variance exploding, with DPS' term: the only one that it comes with besides none."""
        from deepinv import sampling

        scale = problem.reach
        inner = Denoiser(network, scale, 0.0)
        steps = calls if solver == "EulerSolver" else (calls + 1) // 2
        solve = getattr(sampling, solver)(torch.linspace(1, 0.001, max(steps, 3)))
        sampler = sampling.PosteriorDiffusion(
            sampling.DPSDataFidelity(inner, weight=weight, clip=(-1.0, 1.0)), inner,
            sampling.VarianceExplodingDiffusion(alpha=alpha, dtype=torch.float32), solve, dtype=torch.float32,
            minus_one_one=False,
        )  # fmt: skip
        return _posterior(sampler, problem, scale, noise)

    return run


def _posterior(sampler: Any, problem: Problem, scale: float, noise: Tensor) -> Tensor:
    u = sampler(measured(problem, scale, 0.0, len(noise)), physics(problem, scale))
    return scale * u.flatten(1)


def methods() -> dict[str, list[Method]]:
    """By name, every setting that the best is taken of; the first is as it comes."""
    weights = (1.0, 10.0, 100.0, 1000.0)
    return {
        "deepinv DDRM": [ddrm],
        "deepinv DiffPIR, as it comes": [diffpir(7.0)],
        "deepinv DiffPIR, its best strength": [diffpir(value) for value in (1.0, 3.0, 7.0, 25.0)],
        "deepinv DPS, as it comes": [dps(1.0)],
        "deepinv DPS, its best weight": [dps(weight) for weight in weights],
        "deepinv PosteriorDiffusion, VE, its best weight and solver": [
            posterior_diffusion(weight, alpha, solver)
            for weight in weights
            for alpha, solver in ((0.25, "EulerSolver"), (0.0, "HeunSolver"))
        ],
    }

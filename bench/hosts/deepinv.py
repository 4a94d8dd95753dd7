"""deepinv's solvers of diffusion SDEs beside `fastdiff.hosts.deepinv.SDESolver`, without and with measurements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastdiff.hosts.deepinv import SDESolver

from ..mixtures import Mean, Shape
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

SPREAD, NOISE = 0.5, 0.05  # of pixels in [-1, 1]; of measurements
CONVERGED = 500
LEAST = 0.001  # time


class Denoiser(torch.nn.Module):
    """E[x0 | x0 + sigma eps = x] of x [B, 1, 1, size], in float64."""

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        level = torch.as_tensor(sigma).flatten()[0].double()
        return self.mean(x.double().flatten(1), torch.ones_like(level), level).view(x.shape)


def rows() -> Iterator[Row]:
    from deepinv import sampling

    for shape in SHAPES:
        denoiser = Denoiser(mean_of(shape, SPREAD))
        for kind in (sampling.VarianceExplodingDiffusion, sampling.VariancePreservingDiffusion):
            sde = kind(denoiser, alpha=0.0, minus_one_one=False)
            yield from compared(f"{kind.__name__}, {shape.size} dimensions", sde, sde, shape, {})
        for name, fidelity in (
            ("DPS", sampling.DPSDataFidelity(denoiser, weight=1.0)),
            ("PiGDM", sampling.PiGDMDataFidelity(denoiser)),
        ):
            sde = sampling.VarianceExplodingDiffusion(alpha=0.0, minus_one_one=False)
            model = sampling.PosteriorDiffusion(fidelity, denoiser, sde, SDESolver(**times(1)), minus_one_one=False)
            measured = measurements(shape, denoiser)
            yield from compared(f"{name} on {shape.size} dimensions", sde, model.posterior, shape, measured)


def measurements(shape: Shape, denoiser: Denoiser) -> dict[str, Any]:
    """A quarter as many numbers as the data have, of each sample its own: y and physics."""
    import deepinv

    generator = torch.Generator().manual_seed(5)
    A = torch.randn(shape.size // 4, shape.size, generator=generator, dtype=torch.float64) / shape.size**0.5

    def forward(x: Tensor, **_: object) -> Tensor:
        return (x.double().flatten(1) @ A.T).to(x.dtype)[:, None, None]

    def adjoint(y: Tensor, **_: object) -> Tensor:
        return (y.double().flatten(1) @ A).to(y.dtype)[:, None, None]

    noise = deepinv.physics.GaussianNoise(NOISE)
    physics = deepinv.physics.LinearPhysics(A=forward, A_adjoint=adjoint, noise_model=noise)
    sde = deepinv.sampling.VarianceExplodingDiffusion(denoiser, alpha=0.0, minus_one_one=False)
    clean = SDESolver(**times(20)).sample(sde, 80 * start(shape, 1)[:, None, None]).sample
    y = forward(clean)
    return {"y": y + NOISE * torch.randn(y.shape, generator=generator, dtype=y.dtype), "physics": physics}


def compared(use: str, schedule: Any, sde: Any, shape: Shape, given: dict[str, Any]) -> Iterator[Row]:
    """schedule: the SDE whose start is taken; sde: what is solved."""
    from deepinv import sampling

    x = start(shape)[:, None, None] * schedule.sigma_t(1.0) * schedule.scale_t(1.0)
    exact = SDESolver(solver="dpm_solver_2m", **times(CONVERGED)).sample(sde, x, **given).sample
    own = {"DDIMSolver": 1, "EulerSolver": 1, "HeunSolver": 2}
    for n in EVALUATIONS:
        ours = SDESolver(**times(n)).sample(sde, x, **given).sample
        for name, each in own.items():
            theirs = getattr(sampling, name)(**times(n // each)).sample(sde, x, **given).sample
            same = None
            if name == "DDIMSolver":
                same = parity(SDESolver(solver="ddim", **times(n)).sample(sde, x, **given).sample, theirs)
            errors = error(theirs, exact), "default", error(ours, exact)
            yield Row("deepinv", version("deepinv"), use, n, name, *errors, same)


def times(steps: int) -> dict[str, Any]:
    return {"timesteps": torch.linspace(1, LEAST, steps + 1, dtype=torch.float64)}

"""denoising-diffusion-pytorch's loops beside `fastdiff.hosts.denoising_diffusion.sample`, on exact networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastdiff import Schedule
from fastdiff.hosts.denoising_diffusion import sample

from ..mixtures import Mean, Shape
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

SPREAD = 0.5  # of pixels in [-1, 1]; x0 is clipped there by both
DDIM, HEUN = 250, 32  # steps: of the library's own example, and EDM's default
CONVERGED = 400


class Network(torch.nn.Module):
    """With the names that the library reads of a U-Net for images [1, 1, size]."""

    channels, out_dim, self_condition, random_or_learned_sinusoidal_cond = 1, 1, False, False

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self.mean, self.weight = mean, torch.nn.Parameter(torch.zeros(()))

    def x0(self, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        levels = (torch.as_tensor(v, dtype=torch.float64) for v in (alpha, sigma))
        return self.mean(x.double().flatten(1), *levels).view(x.shape)


class Velocity(Network):
    def forward(self, x: Tensor, t: Tensor, _: Tensor | None = None) -> Tensor:
        _, alpha, sigma = self.schedule.at(float(t[0]))
        x0 = self.x0(x, alpha, sigma)
        return (float(alpha / sigma) * (x - float(alpha) * x0) - float(sigma) * x0).to(x)


class Raw(Network):
    """EDM's network, whose output is scaled and added to x."""

    random_or_learned_sinusoidal_cond = True

    def forward(self, x: Tensor, noise: Tensor, _: Tensor | None = None) -> Tensor:
        of, sigma = self.diffusion[0], (4 * noise.double()).exp()[:1, None, None, None]
        x = x.double() / of.c_in(sigma)
        return ((self.x0(x, 1.0, sigma.flatten()[0]) - of.c_skip(sigma) * x) / of.c_out(sigma)).float()


def rows() -> Iterator[Row]:
    import denoising_diffusion_pytorch as library

    for shape in SHAPES:
        net = Velocity(mean_of(shape, SPREAD))
        diffusion = library.GaussianDiffusion(net, image_size=(1, shape.size))
        net.schedule = Schedule.from_alphas_cumprod(diffusion.alphas_cumprod.double().numpy())
        yield from gaussian(diffusion, shape)
        raw = Raw(mean_of(shape, SPREAD))
        edm = library.ElucidatedDiffusion(raw, image_size=0, channels=1, S_churn=0)
        edm.image_size = (1, shape.size)
        raw.diffusion = [edm]
        yield from elucidated(edm, shape)


def gaussian(diffusion: Any, shape: Shape) -> Iterator[Row]:
    noise = start(shape).float()[:, None, None]
    exact = sample(diffusion, noise=noise, evaluations=CONVERGED, solver="dpm_solver_2m", grid="logsnr")
    for n in (*EVALUATIONS, DDIM):
        diffusion.sampling_timesteps = n
        own = with_noise(noise, lambda: diffusion.ddim_sample(noise.shape))
        errors = error(2 * own - 1, 2 * exact - 1), "default", of(diffusion, noise, n, exact)
        same = parity(sample(diffusion, noise=noise, evaluations=n, solver="ddim"), own)
        yield row(f"GaussianDiffusion, {shape.size} dimensions", n, "ddim_sample", *errors, same, n == DDIM)


def elucidated(diffusion: Any, shape: Shape) -> Iterator[Row]:
    """Heun of N steps has 2 N - 1 evaluations; the even numbers are compared with one less of its own."""
    noise = start(shape).float()[:, None, None]
    exact = sample(diffusion, noise=noise, evaluations=CONVERGED, solver="dpm_solver_2m")
    diffusion.image_size = shape.size
    for n in (*EVALUATIONS, 2 * HEUN - 1):
        steps = (n + 1) // 2
        heun = with_noise(noise, lambda steps=steps: diffusion.sample(num_sample_steps=steps))
        dpmpp = with_noise(noise, lambda n=n: diffusion.sample_using_dpmpp(num_sample_steps=n))
        diffusion.image_size = (1, shape.size)
        ours = of(diffusion, noise, n, exact)
        same = parity(sample(diffusion, noise=noise, evaluations=steps, solver="heun"), heun)
        use = f"ElucidatedDiffusion, {shape.size} dimensions"
        yield row(use, n, "sample (Heun)", error(2 * heun - 1, 2 * exact - 1), "default", ours, same, n > 10)
        yield row(use, n, "sample_using_dpmpp", error(2 * dpmpp - 1, 2 * exact - 1), "default", ours, None, n > 10)


def row(*columns: Any) -> Row:
    return Row("denoising-diffusion-pytorch", version("denoising-diffusion-pytorch"), *columns)


def of(diffusion: Any, noise: Tensor, n: int, exact: Tensor) -> float:
    return error(2 * sample(diffusion, noise=noise, evaluations=n) - 1, 2 * exact - 1)


def with_noise(noise: Tensor, draw: Any) -> Tensor:
    """What a loop of the library draws whose first noise is this one: it asks torch for it."""
    original, first = torch.randn, [noise]
    torch.randn = lambda *size, **given: first.pop().clone() if first else original(noise.shape)
    try:
        return draw()
    finally:
        torch.randn = original

"""A problem: data that the network has not seen, what is measured of them, and the network itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.demo import DemoNetwork


class Network:
    """A demo network, without labels, that counts its passes: evaluations, and products with its Jacobian.

    As a model of `fastdiff.sample` it is called as (x, t); `denoised` is E[x0 | x0 + s eps], as other packages ask.
    """

    def __init__(self, net: DemoNetwork) -> None:
        self.net, self.passes = net, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        labels = {name: y.expand(len(x)) for name, y in self.net.uncond().items()}
        out = self.net.model(x, t, **labels)
        self.passes += len(x)
        if out.requires_grad:
            out.register_hook(self._backward)
        return out

    def _backward(self, gradient: Tensor) -> None:
        self.passes += len(gradient)

    def denoised(self, x: Tensor, s: float) -> Tensor:
        """D [B, ...] at x = x0 + s eps."""
        point = self.net.schedule.at_log_snr(-math.log(max(s, 1e-4)))
        alpha, sigma, t = float(point.alpha), float(point.sigma), float(point.t)
        x = alpha * x.float()
        out = self(x, torch.full((len(x),), t))
        by_x, by_out = {
            "epsilon": (1 / alpha, -sigma / alpha),
            "sample": (0.0, 1.0),
            "v_prediction": (alpha, -sigma),
            "flow_prediction": (1.0, -sigma),
        }[self.net.prediction]
        return by_x * x + by_out * out


@dataclass(frozen=True)
class Problem:
    """y = A x0 + noise of a few x0 [N, ...]; A works on any batch, sample by sample.

    low, high: the data's range, for scores and pictures. start: x0 by an ordinary method, [N, ...], whose name is
    start_name. seen: [...] what A multiplies by, where it is a mask of ones and zeros. where: [...] whether an element
    counts in CRPS and coverage; all do if None.
    """

    name: str
    net: DemoNetwork
    truth: Tensor
    y: Tensor
    A: Callable[[Tensor], Tensor] | Tensor
    noise: float
    start: Tensor
    start_name: str
    pinv: Callable[[Tensor], Tensor] | None = None
    seen: Tensor | None = None
    low: float = -1.0
    high: float = 1.0
    where: Tensor | None = None

    @property
    def images(self) -> bool:
        """Whether x0 are [N, C, H, W]."""
        return self.truth.ndim == 4

    def observation(self, members: int) -> fd.Observation:
        """For a batch of so many members of each x0, [members N, ...]."""
        y = self.y.repeat(members, *[1] * (self.y.ndim - 1))
        return fd.Observation(self.A, y, self.noise, pinv=self.pinv)


def measured(clean: Tensor, noise: float, seed: int = 0) -> Tensor:
    """A x0 with noise; of complex numbers, in both parts."""
    generator = torch.Generator().manual_seed(seed)
    if clean.is_complex():
        return clean + noise * torch.view_as_complex(torch.randn(*clean.shape, 2, generator=generator))
    return clean + noise * torch.randn(clean.shape, generator=generator)


class Gaussian:
    """The denoiser of Gaussian data, as a model: what can be had without a network."""

    def __init__(self, net: DemoNetwork, prior: fd.GaussianStart) -> None:
        self.net, self.prior = net, prior

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x]."""
        point = self.net.schedule.at(float(t[0]))
        alpha, sigma = float(point.alpha), float(point.sigma)
        mean = self.prior.mean.to(x)
        return mean + self.prior.times(x - alpha * mean, lambda v: alpha * v / (alpha**2 * v + sigma**2))


def prior(net: DemoNetwork, count: int, rank: int, steps: int = 16) -> fd.GaussianStart:
    """Mean and covariance of the network's own samples."""
    model, seeds = Network(net), range(count)
    plan = fd.plan("dpm_solver_2m", net.schedule, steps, grid="karras", prediction=net.prediction)
    noise = fd.noise.randn((count, *net.shape), seeds)
    drawn = torch.cat([fd.sample(model, plan, part) for part in noise.split(256)])
    return fd.GaussianStart.estimate(drawn, net.schedule, rank)

"""Problems with a known answer, on which solvers are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import fastdiff as fd
from fastdiff import demo
from fastdiff.sampling.noise import randn

Model = Callable[..., Tensor]


@dataclass(frozen=True)
class Problem:
    """A model, its schedule and its samples' shape; `labels` are the model's y, where it has one."""

    name: str
    model: Model
    schedule: fd.Schedule
    prediction: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    converged_grid: str
    conditional: bool = False
    moments: tuple[np.ndarray, np.ndarray] | None = None  # the data's mean and covariance, where known
    guidance: float | None = None

    def noise(self, seeds: list[int]) -> Tensor:
        return randn((len(seeds), *self.shape), seeds, dtype=self.dtype)

    def conditions(self, seeds: list[int]) -> dict[str, object]:
        """Options of `fastdiff.sample`: a conditional model draws the seed's last digit."""
        if not self.conditional:
            return {}
        guided = {"guidance": self.guidance, "uncond": {"y": torch.full((1,), demo.NUM_CLASSES)}}
        return {"y": torch.tensor(seeds) % 10, **(guided if self.guidance is not None else {})}

    def draw(self, plan: fd.Plan, seeds: list[int]) -> Tensor:
        """The samples of these seeds."""
        return fd.sample(self.model, plan, self.noise(seeds), seeds=seeds, **self.conditions(seeds))

    def plan(self, solver: str, steps: int, grid: str, **options: object) -> fd.Plan:
        return fd.plan(solver, self.schedule, steps, grid=grid, prediction=self.prediction, **options)


def digits(guidance: float | None = None) -> Problem:
    """The shipped model, conditional on the digit."""
    model, name = demo.load_model(), "digits" if guidance is None else "digits, guided"
    parts = (demo.schedule(), demo.PREDICTION, demo.SHAPE, torch.float32, "quadratic", True)
    return Problem(name, model, *parts, guidance=guidance)


def smoothed_digits(bandwidth: float = 0.15) -> Problem:
    """scikit-learn's 1797 digits, each blurred into a Gaussian, seen through their exact posterior mean (flow)."""
    data, mean = torch.from_numpy(load_digits().data / 8 - 1), digits_mean(bandwidth)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return mean(x, (1 - t)[:, None], t[:, None])

    covariance = np.cov(data.numpy(), rowvar=False, bias=True) + bandwidth**2 * np.eye(data.shape[1])
    moments = (data.mean(0).numpy(), covariance)
    parts = (fd.Schedule.flow(), "sample", (data.shape[1],), torch.float64, "quadratic")
    return Problem("smoothed digits", model, *parts, moments=moments)


def digits_mean(bandwidth: float, guidance: float | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x0 | alpha x0 + sigma eps = x] of x [B, 64] for the blurred digits; alpha and sigma numbers or [B, 1].

    guidance: away from that of all digits, towards that of the sample's own, the last digit of its place in the batch.
    """
    digits = load_digits()
    data, labels = torch.from_numpy(digits.data / 8 - 1), torch.from_numpy(digits.target)
    squares = data.square().sum(1)

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = (alpha * bandwidth) ** 2 + sigma**2
        # What |x - alpha y|^2 holds beside these terms is the same for all y.
        logits = (alpha * x @ data.T - 0.5 * alpha**2 * squares) / variance
        weight = torch.softmax(logits, dim=1)
        if guidance is not None:
            own = labels == torch.arange(len(x))[:, None] % 10
            chosen = torch.softmax(logits.masked_fill(~own, -torch.inf), dim=1)
            weight = weight + guidance * (chosen - weight)
        center = weight @ data
        return center + alpha * bandwidth**2 / variance * (x - alpha * center)

    return mean


def mixture(components: int = 6, size: int = 32) -> Problem:
    """A Gaussian mixture in 32 dimensions with power-law covariances, seen through its exact posterior mean."""
    generator = torch.Generator().manual_seed(0)
    normal = {"generator": generator, "dtype": torch.float64}
    means = torch.randn(components, size, **normal) * 0.5
    basis = torch.linalg.qr(torch.randn(components, size, size, **normal)).Q
    variances = 0.25 / torch.arange(1, size + 1, dtype=torch.float64)
    weights = torch.softmax(torch.randn(components, **normal) * 0.5, dim=0)

    def posterior_mean(x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x0 + t eps = x]; x [B, size], t [B]."""
        s2 = t[:, None, None] ** 2  # [B, 1, 1]
        offset = torch.einsum("cij,bci->bcj", basis, x[:, None] - means)  # in each component's own axes
        log_weight = weights.log() - 0.5 * (offset**2 / (variances + s2) + (variances + s2).log()).sum(-1)
        inner = torch.einsum("cij,bcj->bci", basis, offset * variances / (variances + s2))
        return (torch.softmax(log_weight, dim=1)[..., None] * (means + inner)).sum(1)

    mean = weights @ means
    second = torch.einsum("c,cij,j,ckj->ik", weights, basis, variances, basis) + (weights * means.T) @ means
    moments = (mean.numpy(), (second - torch.outer(mean, mean)).numpy())
    return Problem(
        "mixture", posterior_mean, fd.Schedule.edm(), "sample", (size,), torch.float64, "logsnr", moments=moments
    )


@dataclass(frozen=True)
class NetworkProblem(Problem):
    """One of the networks that ship, with what it is told."""

    network: Any = None

    def conditions(self, seeds: list[int]) -> dict[str, object]:
        guided = {"guidance": self.guidance, "uncond": self.network.uncond()} if self.guidance is not None else {}
        return {**self.network.conditions(seeds), **guided}


def network_problems() -> Iterator[Problem]:
    """The networks of `fastdiff.demo` but the digits, those that take labels with guidance 3 too."""
    for name in demo.networks()[1:]:
        net = demo.network(name)
        grid = "logsnr" if net.schedule.kind == "ve" else "quadratic"
        parts = (net.model, net.schedule, net.prediction, net.shape, torch.float32, grid)
        for guidance in (None, 3.0) if net.num_classes else (None,):
            title = name if guidance is None else f"{name}, guided"
            yield NetworkProblem(title, *parts, net.num_classes > 0, guidance=guidance, network=net)

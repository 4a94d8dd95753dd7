"""Problems with a conditional and an unconditional model, whose guided solution can be converged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo
from fastdiff.guidance import Guidance
from fastdiff.sampling.noise import randn


@dataclass(frozen=True)
class GuidedProblem:
    """A model with a condition y, and the y of the unconditional call. labels: y of the seeds."""

    name: str
    model: Callable[..., Tensor]
    schedule: fd.Schedule
    prediction: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    labels: Callable[[Tensor], Tensor]
    uncond: Mapping[str, object]

    def plan(self, solver: str, steps: int) -> fd.Plan:
        """On the log-SNR grid."""
        return fd.plan(solver, self.schedule, steps, grid="logsnr", prediction=self.prediction)

    def draw(self, plan: fd.Plan, guidance: Guidance, seeds: range) -> Tensor:
        """The samples of these seeds."""
        noise, y = randn((len(seeds), *self.shape), list(seeds), dtype=self.dtype), self.labels(torch.tensor(seeds))
        x = fd.sample(self.model, plan, noise, guidance=guidance, uncond=self.uncond, y=y)
        assert isinstance(x, Tensor)
        return x


def _posterior_means(x: Tensor, t: Tensor, means: Tensor, basis: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0 | x0 + t eps = x, component] [B, K, n], and the log-likelihood of x by component [B, K]."""
    s2 = t[:, None, None] ** 2
    offset = torch.einsum("cij,bci->bcj", basis, x[:, None] - means)
    likelihood = -0.5 * (offset**2 / (variances + s2) + (variances + s2).log()).sum(-1)
    return means + torch.einsum("cij,bcj->bci", basis, offset * variances / (variances + s2)), likelihood


def _components(count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(count, size, generator=generator, dtype=torch.float64) * 0.5
    basis = torch.linalg.qr(torch.randn(count, size, size, generator=generator, dtype=torch.float64)).Q
    return means, basis, 0.25 / torch.arange(1, size + 1, dtype=torch.float64).expand(count, size)


def gaussians(size: int = 32) -> GuidedProblem:
    """The condition (y = 0) is one Gaussian, the unconditional data (y = 1) are a wider one with other axes."""
    means, basis, variances = _components(2, size)
    variances = variances * torch.tensor([[1.0], [4.0]], dtype=torch.float64)

    def posterior_mean(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        each, _ = _posterior_means(x, t, means, basis, variances)
        return each[torch.arange(len(x)), y]

    return _exact("two Gaussians in 32 dimensions", posterior_mean, size, torch.zeros_like, 1)


def mixture(count: int = 6, size: int = 32) -> GuidedProblem:
    """The condition y is a component of a Gaussian mixture; y = count is the whole."""
    means, basis, variances = _components(count, size)

    def posterior_mean(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        each, likelihood = _posterior_means(x, t, means, basis, variances)
        whole = (torch.softmax(likelihood, dim=1)[..., None] * each).sum(1)
        return torch.where((y < count)[:, None], each[torch.arange(len(x)), y.clamp(max=count - 1)], whole)

    return _exact("a component of a mixture in 32 dimensions", posterior_mean, size, lambda seeds: seeds % count, count)


def _exact(
    name: str, model: Callable[..., Tensor], size: int, labels: Callable[[Tensor], Tensor], uncond: int
) -> GuidedProblem:
    shape, schedule = (size,), fd.Schedule.edm()
    return GuidedProblem(name, model, schedule, "sample", shape, torch.float64, labels, {"y": torch.tensor([uncond])})


def digits() -> GuidedProblem:
    """The shipped model, conditional on the digit."""
    parts = (
        "the shipped digits network",
        demo.load_model(),
        demo.schedule(),
        demo.PREDICTION,
        demo.SHAPE,
        torch.float32,
    )
    return GuidedProblem(*parts, lambda seeds: seeds % demo.NUM_CLASSES, {"y": torch.tensor([demo.NUM_CLASSES])})

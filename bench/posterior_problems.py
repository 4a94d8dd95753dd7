"""Inverse problems whose posteriors are known: a smooth Gaussian field, and a mixture of Gaussians."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPE = torch.float64
DIRECTIONS = 256  # of the sliced distance
FIELD_SIZE, FIELD_STD, FIELD_NOISE = 32, 0.5, 0.05
UPPER_SHARE = 0.9  # of the posterior of `two_modes`


@dataclass
class Network:
    """E[x0 | alpha x0 + sigma eps = x], exact; it counts its calls and the gradients that are taken through it."""

    mean: Callable[[Tensor, Tensor, Tensor], Tensor]
    calls: int = 0
    gradients: int = 0

    def __call__(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """x [B, D]; alpha and sigma one for all."""
        self.calls += 1
        with torch.set_grad_enabled(x.requires_grad):
            out = self.mean(x.to(DTYPE), torch.as_tensor(alpha, dtype=DTYPE), torch.as_tensor(sigma, dtype=DTYPE))
        if out.requires_grad:
            out.register_hook(self._count)
        return out.to(x.dtype)

    def _count(self, gradient: Tensor) -> None:
        self.gradients += 1


@dataclass
class Problem:
    """y = A x0 + noise eps: x0 [D], A [M, D], y [1, M].

    mean: E[x0 | x] of the data. covariance: theirs, [D, D]. error: samples [B, D] -> their distance to the posterior.
    reach: a bound that the data keep almost surely, for peers that clip.
    """

    name: str
    A: Tensor
    y: Tensor
    noise: float
    covariance: Tensor
    mean: Callable[[Tensor, Tensor, Tensor], Tensor]
    error: Callable[[Tensor], float]
    reach: float
    floor: float = 0.0  # the error of as many exact samples, in the mean
    pinv: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.pinv = torch.linalg.pinv(self.A)


def problems(samples: int) -> Iterator[Problem]:
    """All of them; samples: how many are compared, for the floors."""
    yield from fields(samples)
    yield mixture("mixture", samples)


def fields(samples: int) -> Iterator[Problem]:
    """A smooth Gaussian field of 32 elements of standard deviation FIELD_STD under a mask, pooling and a blur."""
    step = torch.arange(FIELD_SIZE, dtype=DTYPE)
    apart = (step[:, None] - step) ** 2
    covariance = FIELD_STD**2 * torch.exp(-apart / (2 * 3.0**2)) + 1e-6 * torch.eye(FIELD_SIZE, dtype=DTYPE)
    spread = torch.exp(-apart / (2 * 2.0**2))
    operators = {
        "mask, 1 of 4": torch.eye(FIELD_SIZE, dtype=DTYPE)[::4],
        "average pooling x4": pooling(FIELD_SIZE),
        "blur": spread / spread.sum(1, keepdim=True),
    }
    for name, A in operators.items():
        yield gaussian(name, covariance, A, FIELD_NOISE, samples)


def pooling(size: int) -> Tensor:
    """Averages of 4 neighbours [size / 4, size]."""
    return torch.eye(size, dtype=DTYPE).view(size // 4, 4, size).mean(1)


def gaussian(name: str, covariance: Tensor, A: Tensor, noise: float, samples: int) -> Problem:
    """Data N(0, covariance). The error is W2 / sqrt D of the Gaussian with the samples' moments."""
    size, generator = len(covariance), torch.Generator().manual_seed(1)
    variances, basis = torch.linalg.eigh(covariance)
    variances = variances.clamp(min=0)

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x @ basis) * (alpha * variances / (alpha**2 * variances + sigma**2)) @ basis.T

    x0 = basis @ (variances.sqrt() * torch.randn(size, generator=generator, dtype=DTYPE))
    y = A @ x0 + noise * torch.randn(len(A), generator=generator, dtype=DTYPE)
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + noise**2 * torch.eye(len(A), dtype=DTYPE))
    center, scatter = gain @ y, covariance - gain @ A @ covariance
    root = square_root(scatter)

    def error(x: Tensor) -> float:
        x = x.to(DTYPE)
        if not x.isfinite().all() or x.abs().max() > 1e6:
            return math.inf
        cross = square_root(root @ x.T.cov() @ root)
        squared = (x.mean(0) - center).square().sum() + (scatter + x.T.cov() - 2 * cross).trace()
        return float((squared.clamp(min=0) / size).sqrt())

    exact = center + torch.randn(samples, size, generator=generator, dtype=DTYPE) @ root
    return Problem(name, A, y[None], noise, covariance, mean, error, 2.0, error(exact))


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric one of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def mixture(name: str, samples: int) -> Problem:
    """6 modes in 16 dimensions, 4 averages observed. The error is the sliced 2-Wasserstein distance to exact draws."""
    size, modes, width, noise = 16, 6, 0.2, 0.1
    generator = torch.Generator().manual_seed(6)
    randn = functools.partial(torch.randn, generator=generator, dtype=DTYPE)
    means, A = randn(modes, size), pooling(size)
    means = means - 0.7 * (means @ A.T).repeat_interleave(
        4, dim=1
    )  # what is observed tells three modes not quite apart
    covariance = means.T.cov(correction=0) + width**2 * torch.eye(size, dtype=DTYPE)

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        total = alpha**2 * width**2 + sigma**2
        offset = x[:, None] - alpha * means
        share = torch.softmax(-0.5 * offset.square().sum(-1) / total, dim=1)
        return share @ means + alpha * width**2 / total * (x - alpha * share @ means)

    y = A @ (means[0] + width * randn(size)) + noise * randn(len(A))
    inverse = torch.linalg.inv(width**2 * A @ A.T + noise**2 * torch.eye(len(A), dtype=DTYPE))
    residual = y - means @ A.T
    weights = torch.softmax(-0.5 * torch.einsum("km,mn,kn->k", residual, inverse, residual), 0)
    gain = width**2 * A.T @ inverse
    root = square_root(width**2 * (torch.eye(size, dtype=DTYPE) - gain @ A))

    def draw() -> Tensor:
        which = torch.multinomial(weights, samples, replacement=True, generator=generator)
        return (means + residual @ gain.T)[which] + randn(samples, size) @ root

    directions = torch.nn.functional.normalize(randn(size, DIRECTIONS), dim=0)
    ordered = (draw() @ directions).sort(0).values

    def error(x: Tensor) -> float:
        if not x.isfinite().all() or x.abs().max() > 1e6:
            return math.inf
        return float(((x.to(DTYPE) @ directions).sort(0).values - ordered).square().mean().sqrt())

    return Problem(name, A, y[None], noise, covariance, mean, error, 4.0, sum(error(draw()) for _ in range(20)) / 20)


def two_modes() -> Problem:
    """N(-1, 0.2^2) and N(1, 0.2^2), the same in both elements, of which the first is measured.

    The error is by how much the share of samples in the upper mode differs from UPPER_SHARE.
    """
    width, noise = 0.2, 0.8
    y = torch.logit(torch.tensor([[UPPER_SHARE]], dtype=DTYPE)) * (noise**2 + width**2) / 2
    covariance = torch.ones(2, 2, dtype=DTYPE) + width**2 * torch.eye(2, dtype=DTYPE)

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        total = alpha**2 * width**2 + sigma**2
        middle = 2 * torch.sigmoid(2 * alpha * x.sum(1, keepdim=True) / total) - 1
        return middle + alpha * width**2 / total * (x - alpha * middle)

    def error(x: Tensor) -> float:
        return abs(upper_share(x) - UPPER_SHARE)

    A = torch.tensor([[1.0, 0.0]], dtype=DTYPE)
    return Problem("two modes", A, y, noise, covariance, mean, error, 2.0)


def upper_share(x: Tensor) -> float:
    """Of the samples [B, 2] of `two_modes`, those in the upper mode."""
    return float((x.mean(1) > 0).double().mean())

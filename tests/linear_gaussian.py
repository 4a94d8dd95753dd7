"""Linear Gaussian problems: data N(0, S) of a smooth field in 32 dimensions, seen through a mask, pooling or a blur.

The posterior is Gaussian and known. A run of the perfect model is an affine map of its noise, so the law that it draws
is computed from the images of a basis, without sampling.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import fastdiff as fd

SIZE = 32
NOISE = 0.05
SCHEDULE = fd.Schedule.edm(0.002, 50.0)


def smooth_field(std: float = 0.5, length: float = 2.5) -> Tensor:
    """[32, 32] the covariance of a periodic field that is smooth over some elements."""
    places = torch.arange(SIZE, dtype=torch.float64)
    gap = (places[:, None] - places).abs()
    gap = torch.minimum(gap, SIZE - gap)
    return std**2 * torch.exp(-0.5 * (gap / length) ** 2) + 1e-4 * torch.eye(SIZE, dtype=torch.float64)


COVARIANCE = smooth_field()
PRIOR = fd.GaussianStart.from_covariance(torch.zeros(SIZE, dtype=torch.float64), COVARIANCE, SCHEDULE)


def matrices() -> dict[str, Tensor]:
    """What is seen: every fourth element; means of four; a periodic blur of all."""
    eye = torch.eye(SIZE, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (torch.arange(-4, 5, dtype=torch.float64) / 1.5) ** 2)
    blur = sum(w * eye.roll(k - 4, 1) for k, w in enumerate(kernel / kernel.sum()))
    return {"mask": eye[::4], "pooling": eye.view(8, 4, SIZE).mean(1), "blur": blur}


MATRICES = matrices()


class Law(NamedTuple):
    """A Gaussian law: mean [D] and covariance [D, D]."""

    mean: Tensor
    covariance: Tensor

    def distance(self, other: Law) -> float:
        """The 2-Wasserstein distance over sqrt D."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
        cross = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
        spread = self.covariance.trace() + other.covariance.trace() - 2 * cross
        return float((((self.mean - other.mean).square().sum() + spread.clamp(min=0)) / len(self.mean)).sqrt())


def model(x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x0 + t eps = x]; x [B, 32], t [B], all of one value."""
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + t[0] ** 2 * torch.eye(SIZE, dtype=torch.float64))
    return x @ gain.T


def measurement(A: Tensor, noise: float = NOISE) -> Tensor:
    """[1, M] of one field."""
    generator = torch.Generator().manual_seed(0)
    field = torch.linalg.cholesky(COVARIANCE) @ torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return (A @ field + noise * torch.randn(len(A), generator=generator, dtype=torch.float64))[None]


def posterior(A: Tensor, y: Tensor, noise: float = NOISE) -> Law:
    """The law of x0 given y."""
    gain = COVARIANCE @ A.T @ torch.linalg.inv(A @ COVARIANCE @ A.T + noise**2 * torch.eye(len(A), dtype=A.dtype))
    return Law(gain @ y[0], COVARIANCE - gain @ A @ COVARIANCE)


def drawn(plan: fd.Plan, **options: object) -> Law:
    """The law of a run without noise of its own."""
    basis = torch.cat([torch.zeros(1, SIZE, dtype=torch.float64), torch.eye(SIZE, dtype=torch.float64)])
    x = fd.sample(model, plan, basis, **options)
    columns = x[1:] - x[0]
    return Law(x[0], columns.T @ columns)

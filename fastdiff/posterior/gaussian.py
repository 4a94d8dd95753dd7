"""The gain of Gaussian data whose covariance is known: no gradients through the model."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling.correction import Evaluation
from ..sampling.gaussian import GaussianStart
from .linearised import Linearised
from .measurements import Measurements
from .method import Method, whole
from .solve import Product, conjugate_gradients, dot

INNER = 20  # iterations where A and A^T are all that they cost


@dataclass(frozen=True, eq=False)
class GaussianPrior(Method):
    """D' = D + C A^T (R + A C A^T)^-1 (y - A D), C = (S^-1 + (alpha / sigma)^2)^-1, with the data's covariance S.

    The posterior covariance of Gaussian data, which it is exact for; D is the model's. It takes no gradients through
    the model, so it serves compiled, quantised and remote ones, and can be captured as a CUDA graph.
    prior: `fastdiff.GaussianStart`, estimated from samples; its low-rank covariance is S.
    iterations: of conjugate gradients, each a product with A and A^T.
    """

    prior: GaussianStart | None = None
    iterations: int = INNER

    def __post_init__(self) -> None:
        if not isinstance(self.prior, GaussianStart):
            raise ValueError(
                "correction: 'gaussian' needs the data's covariance; pass"
                " fd.posterior.GaussianPrior(fd.GaussianStart.estimate(samples, schedule))"
            )
        whole("iterations", self.iterations)

    def corrected(self, at: Evaluation, observation: Measurements) -> Tensor:
        assert self.prior is not None
        local = observation.linearised(at.denoised)
        return at.denoised + gain(local, prior_covariance(self.prior, at), self.iterations)

    def weighed(self, at: Evaluation, observation: Measurements) -> tuple[Tensor, Tensor]:
        """The estimate is log N(y; A D, R + A C A^T), see `log_normal`."""
        assert self.prior is not None
        local, covariance = observation.linearised(at.denoised), prior_covariance(self.prior, at)
        v = solved(local, covariance, local.residual, self.iterations)
        return at.denoised + covariance(local.pull(v)), log_normal(local, covariance, v)


def log_normal(local: Linearised, covariance: Product, v: Tensor) -> Tensor:
    """[B] log N(y; A D, S), S = R + A C A^T, but for log det S, which is the sum of the logarithms of S's row sums.

    v: S^-1 (y - A D). Row sums as the diagonal of what stands for S are TMPD's (Boys et al. 2023); v is known here, so
    they are taken for the determinant alone.
    """
    rows = local.push(covariance(local.pull(torch.ones_like(local.y)))).clamp(min=0.0) + local.variance
    exponent = dot(local.residual.double(), v.double())
    return -0.5 * (exponent + (2 * math.pi * rows.double()).log().flatten(1).sum(1))


def gain(local: Linearised, covariance: Product, iterations: int = INNER) -> Tensor:
    """C A^T (R + A C A^T)^-1 (y - A D)."""
    return covariance(local.pull(solved(local, covariance, local.residual, iterations)))


def solved(local: Linearised, covariance: Product, b: Tensor, iterations: int = INNER) -> Tensor:
    """(R + A C A^T)^-1 b, by conjugate gradients."""
    return conjugate_gradients(functools.partial(spread, local, covariance), b, iterations)


def spread(local: Linearised, covariance: Product, v: Tensor) -> Tensor:
    """(R + A C A^T) v: how measurements scatter about A D."""
    return local.variance * v + local.push(covariance(local.pull(v)))


def prior_covariance(prior: GaussianStart, at: Evaluation) -> Product:
    """v [B, ...] -> C v, C = (S^-1 + (alpha / sigma)^2)^-1; S itself where alpha is 0."""
    if at.sigma == 0:
        return torch.zeros_like
    precision = (at.alpha / at.sigma) ** 2
    return lambda v: prior.times(v, lambda variance: variance / (1 + precision * variance))

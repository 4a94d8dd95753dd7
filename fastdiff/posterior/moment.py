"""Moment matching: the gain of a Gaussian with the model's own mean and covariance at each noise level."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling.correction import Evaluation
from ..sampling.gaussian import GaussianStart
from .gaussian import gain, prior_covariance, row_sums, solved, spread
from .linearised import Linearised
from .measurements import Measurements
from .method import Method, whole
from .solve import gmres


@dataclass(frozen=True, eq=False)
class Moment(Method):
    """D' = D + C A^T (R + A C A^T)^-1 (y - A D), C = (sigma^2 / alpha) dD/dx (MMPS, Rozet et al. 2024, eq. 15-18).

    Exact for Gaussian data. R = noise^2. A nonlinear A is linearised at D.
    iterations: of GMRES, each a product with dD/dx, about twice a model evaluation. 3 are enough for masks and pooling;
    blurs take 5 to 10, or a prior.
    prior: a Gaussian of the data, `fastdiff.GaussianStart`, whose own solution is the last of the directions: where it
    describes the data well a few iterations are exact. It stands in where alpha = 0: the model knows no covariance
    there, and without a prior the first D stays as it is.
    """

    iterations: int = 3
    prior: GaussianStart | None = None

    def __post_init__(self) -> None:
        whole("iterations", self.iterations)

    @property
    def gradients(self) -> bool:
        return True

    def corrected(self, at: Evaluation, observation: Measurements) -> Tensor:
        if at.alpha == 0 and self.prior is None:
            return at.denoised
        local = observation.linearised(at.denoised)
        prior = None if self.prior is None else prior_covariance(self.prior, at)
        if prior is not None and at.alpha == 0:
            return at.denoised + gain(local, prior)
        precondition = None if prior is None else functools.partial(solved, local, prior)
        v = gmres(functools.partial(spread, local, at.covariance), local.residual, self.iterations, precondition)
        return at.denoised + at.covariance(local.pull(v))

    def scatter(self, at: Evaluation, local: Linearised) -> Tensor:
        if at.alpha == 0 and self.prior is None:
            return torch.zeros_like(local.y)
        covariance = at.covariance if at.alpha or self.prior is None else prior_covariance(self.prior, at)
        return row_sums(local, covariance)

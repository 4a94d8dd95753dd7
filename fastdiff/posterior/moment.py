"""Moment matching: the gain of a Gaussian with the model's own mean and covariance at each noise level."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling.correction import Evaluation
from ..sampling.gaussian import GaussianStart
from .gaussian import log_normal, prior_covariance, solved, spread
from .linearised import Linearised
from .measurements import Measurements
from .method import Method, whole
from .solve import Product, gmres


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
        local, covariance = observation.linearised(at.denoised), self._covariance(at)
        return at.denoised + covariance(local.pull(self._solved(at, local)))

    def weighed(self, at: Evaluation, observation: Measurements) -> tuple[Tensor, Tensor]:
        """The estimate is log N(y; A D, R + A C A^T), see `log_normal`."""
        if at.alpha == 0 and self.prior is None:
            return at.denoised, at.denoised.new_zeros(len(at.denoised), dtype=torch.float64)
        local, covariance = observation.linearised(at.denoised), self._covariance(at)
        v = self._solved(at, local)
        return at.denoised + covariance(local.pull(v)), log_normal(local, covariance, v)

    def _covariance(self, at: Evaluation) -> Product:
        """C, the prior's where alpha is 0."""
        return at.covariance if at.alpha or self.prior is None else prior_covariance(self.prior, at)

    def _solved(self, at: Evaluation, local: Linearised) -> Tensor:
        """(R + A C A^T)^-1 (y - A D)."""
        prior = None if self.prior is None else prior_covariance(self.prior, at)
        if prior is not None and at.alpha == 0:
            return solved(local, prior, local.residual)
        precondition = None if prior is None else functools.partial(solved, local, prior)
        return gmres(functools.partial(spread, local, at.covariance), local.residual, self.iterations, precondition)

"""The gradient of the likelihood at D: any differentiable A, any noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plans.plan import Plan
from ..sampling.correction import Evaluation
from .linearised import Linearised
from .measurements import Measurements
from .method import Method, positive
from .solve import dot, per_sample

FEWEST = 50  # steps, below which the weights are known to overshoot


@dataclass(frozen=True, eq=False)
class Gradient(Method):
    """D' = D + C A^T (R + spread s^2 a^2)^-1 (y - A D), C = (sigma^2 / alpha) dD/dx, s = sigma / alpha.

    Diffusion posterior sampling (DPS, Chung et al. 2023) with the weights of SDA (Rozet & Louppe 2023, eq. 15) instead
    of the norm of the residual. For other noise than Gaussian it is C A^T of the slope of log p(y | A D), smoothed over
    the same spread (`Likelihood.smoothed_slope`). A is linearised at D.

    a is 1 for an A of norm 1 at most, and for others |A^T g| / |g| with the slope g: sums, as in tomography, scatter
    more.

    spread: the variance of A x0 about A D, in units of s^2 a^2; between 0.01 and 0.1 mostly. Too small a one overshoots
    where steps are few, so below 50 evaluations it warns.
    """

    spread: float = 0.1

    def __post_init__(self) -> None:
        positive("spread", self.spread)

    @property
    def gradients(self) -> bool:
        return True

    @property
    def any_noise(self) -> bool:
        return True

    def plan(self, plan: Plan, observation: Measurements) -> Plan:
        if plan.nfe < FEWEST:
            warnings.warn(
                f"correction: 'gradient' is known to overshoot in fewer than {FEWEST} evaluations, the plan has"
                f" {plan.nfe}; 'moment' needs fewer",
                stacklevel=2,
            )
        return plan

    def corrected(self, at: Evaluation, observation: Measurements) -> Tensor:
        if at.alpha == 0:  # x does not know x0 there, and neither does dD/dx
            return at.denoised
        local = observation.linearised(at.denoised)
        return self._corrected(at, local, self._scatter(at, local))

    def weighed(self, at: Evaluation, observation: Measurements) -> tuple[Tensor, Tensor]:
        """The estimate is `Likelihood.smoothed_log_prob`."""
        if at.alpha == 0:
            return at.denoised, at.denoised.new_zeros(len(at.denoised), dtype=torch.float64)
        local = observation.linearised(at.denoised)
        scatter = self._scatter(at, local)
        twist = local.likelihood.smoothed_log_prob(local.value.double(), local.y.double(), scatter.double())
        return self._corrected(at, local, scatter), twist

    def _corrected(self, at: Evaluation, local: Linearised, scatter: Tensor) -> Tensor:
        slope = local.likelihood.smoothed_slope(local.value, local.y, scatter)
        return at.denoised + at.covariance(local.pull(slope))

    def _scatter(self, at: Evaluation, local: Linearised) -> Tensor:
        """[B, 1, ...] spread s^2 a^2: the variance of A x0 about A D."""
        slope = local.likelihood.slope(local.value, local.y)
        back, size = local.pull(slope), dot(slope, slope)
        gain = dot(back, back) / torch.where(size > 0, size, 1.0)
        return self.spread * at.ratio**2 * per_sample(gain.clamp(min=1.0), slope)

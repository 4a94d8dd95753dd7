"""The gradient of the likelihood at D: any differentiable A, any noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plans.plan import Plan
from ..sampling.correction import Evaluation
from .measurements import Measurements
from .method import Method, positive

FEWEST = 50  # steps, below which the weights are known to overshoot


@dataclass(frozen=True, eq=False)
class Gradient(Method):
    """D' = D + C A^T (R + spread s^2)^-1 (y - A D), C = (sigma^2 / alpha) dD/dx, s = sigma / alpha.

    Diffusion posterior sampling (DPS, Chung et al. 2023) with the weights of SDA (Rozet & Louppe 2023, eq. 15) instead
    of the norm of the residual. For other noise than Gaussian it is C A^T of the slope of log p(y | A D), smoothed over
    the same spread (`Likelihood.smoothed_slope`). A is linearised at D.

    spread: the variance of A x0 about A D, in units of s^2; between 0.01 and 0.1 mostly. Too small a one overshoots
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
        slope = local.likelihood.smoothed_slope(local.value, local.y, self.spread * at.ratio**2)
        return at.denoised + at.covariance(local.pull(slope))

    def weighed(self, at: Evaluation, observation: Measurements) -> tuple[Tensor, Tensor]:
        """The estimate is `Likelihood.smoothed_log_prob`."""
        if at.alpha == 0:
            return at.denoised, at.denoised.new_zeros(len(at.denoised), dtype=torch.float64)
        local = observation.linearised(at.denoised)
        scatter, value, y = self.spread * at.ratio**2, local.value.double(), local.y.double()
        return self.corrected(at, observation), local.likelihood.smoothed_log_prob(value, y, scatter)

"""sbi's protocol with a posterior that is known: Gaussian, a mean and a standard deviation for each observation."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

SIZE = 3


class Estimator:
    """A ConditionalVectorFieldEstimator whose network is exact. Times are scalars, as `Diffuser` gives them."""

    t_min, t_max = 1e-3, 1.0

    def __init__(self, spread: Tensor) -> None:
        self.spread, self.times = spread, []

    def solve_schedule(self, count: int) -> Tensor:
        return torch.linspace(self.t_max, self.t_min, count)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def mean_t_fn(self, times: Tensor) -> Tensor:
        return self.alpha_sigma(times)[0].unsqueeze(-1)

    def std_fn(self, times: Tensor) -> Tensor:
        return self.alpha_sigma(times)[1].unsqueeze(-1)

    def data(self, theta: Tensor, x_o: Tensor, t: Tensor) -> Tensor:
        """E[theta_0 | theta_t = theta], of theta_0 ~ N(x_o, spread^2)."""
        self.times.append(float(t))
        assert t.ndim == 0
        alpha, sigma = self.alpha_sigma(t)
        gain = alpha * self.spread**2 / ((alpha * self.spread) ** 2 + sigma**2)
        return x_o + gain * (theta - alpha * x_o)

    def score(self, input: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(t)
        return (alpha * self.data(input, condition, t) - input) / sigma**2

    def drift_fn(self, input: Tensor, times: Tensor) -> Tensor:
        raise AssertionError("asked of sbi's own predictors alone")

    diffusion_fn = drift_fn


class VP(Estimator):
    beta_min, beta_max = 0.01, 10.0

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


class SubVP(VP):
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = super().alpha_sigma(t)
        return alpha, sigma**2


class VE(Estimator):
    beta_min, beta_max, sigma_min, sigma_max = 0.01, 10.0, 1e-4, 10.0

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def solve_schedule(self, count: int) -> Tensor:
        """Its "power_law"."""
        low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
        sigma = torch.linspace(high, low, count, dtype=torch.float64) ** 7
        unit = (sigma / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)
        return (unit * (self.t_max - self.t_min) + self.t_min).float()


class Flow(Estimator):
    t_min, noise_scale = 0.0, 1e-3

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t + self.noise_scale

    def ode_fn(self, input: Tensor, condition: Tensor, times: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(times)
        data = self.data(input, condition, times)
        return (input - alpha * data) / sigma - data


class Potential:
    """A VectorFieldBasedPotential: the score of one observation or of each of several, x_o [B, SIZE]."""

    device, x_is_iid, guidance_method = "cpu", False, None

    def __init__(self, estimator: Estimator, x_o: Tensor) -> None:
        self.vector_field_estimator, self.x_o = estimator, x_o

    def gradient(self, theta: Tensor, time: Tensor) -> Tensor:
        return self.vector_field_estimator.score(theta, self.x_o, time)

    def end_of(self, theta: Tensor) -> Tensor:
        """theta_0 of the probability flow ODE through theta at t_max."""
        estimator = self.vector_field_estimator
        alpha, sigma = estimator.alpha_sigma(torch.tensor(estimator.t_max, dtype=torch.float64))
        whitened = (theta - alpha * self.x_o) / ((alpha * estimator.spread) ** 2 + sigma**2).sqrt()
        return self.x_o + estimator.spread * whitened


def run(predictor: object, theta: Tensor, ts: Tensor) -> list[Tensor]:
    """What `Diffuser.run` does: the states at the ends of all steps."""
    states = [theta]
    for t1, t0 in pairwise(ts):
        states.append(predictor(states[-1], t1, t0))  # type: ignore[operator]
    return states

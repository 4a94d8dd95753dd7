"""k-diffusion's noise levels: n levels from sigma_max to sigma_min and 0 after them, [n + 1] float32 on `device`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def append_zero(x: Tensor) -> Tensor:
    """[n] to [n + 1]."""
    return torch.cat([x, x.new_zeros(1)])


def get_sigmas_karras(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniform in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    return _levels(np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n) ** rho, device)


def get_sigmas_exponential(
    n: int, sigma_min: float, sigma_max: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniform in log sigma."""
    return get_sigmas_polyexponential(n, sigma_min, sigma_max, 1.0, device)


def get_sigmas_polyexponential(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: torch.device | str = "cpu"
) -> Tensor:
    """log sigma falls as u^rho with u from 1 to 0."""
    u = np.linspace(1, 0, n) ** rho
    return _levels(np.exp(u * math.log(sigma_max) + (1 - u) * math.log(sigma_min)), device)


def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The continuous VP SDE's levels at times uniform from 1 to eps_s (Song et al. 2021, eq. 32)."""
    t = np.linspace(1, eps_s, n)
    return _levels(np.sqrt(np.expm1(beta_d * t**2 / 2 + beta_min * t)), device)


def _levels(sigmas: np.ndarray, device: torch.device | str) -> Tensor:
    return append_zero(torch.tensor(sigmas, dtype=torch.float32)).to(device)

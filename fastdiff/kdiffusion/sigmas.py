"""k-diffusion's sigma grids, and its arithmetic on sigmas.

A grid is [n + 1] float32 on `device`: n sigmas from sigma_max to sigma_min, then 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plans.menu_grids import laplace, polyexponential


def append_zero(x: Tensor) -> Tensor:
    """x [n] with a 0 at its end, [n + 1]."""
    return torch.cat([x, x.new_zeros(1)])


def get_sigmas_karras(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniform in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    return _grid(np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n) ** rho, device)


def get_sigmas_exponential(n: int, sigma_min: float, sigma_max: float, device: torch.device | str = "cpu") -> Tensor:
    """Uniform in log sigma."""
    return get_sigmas_polyexponential(n, sigma_min, sigma_max, 1.0, device)


def get_sigmas_polyexponential(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: torch.device | str = "cpu"
) -> Tensor:
    """log sigma is linear in u^rho, u uniform from 1 to 0."""
    return _grid(polyexponential(n, sigma_min, sigma_max, rho), device)


def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The continuous VP SDE's sigmas at times uniform from 1 to eps_s (Song et al. 2021, eq. 32)."""
    t = np.linspace(1, eps_s, n)
    return _grid(np.sqrt(np.expm1(beta_d * t**2 / 2 + beta_min * t)), device)


def get_sigmas_laplace(
    n: int,
    sigma_min: float,
    sigma_max: float,
    mu: float = 0.0,
    beta: float = 0.5,
    device: torch.device | str = "cpu",
) -> Tensor:
    """n quantiles of a Laplace distribution of log sigma, clipped to [sigma_min, sigma_max] (Hang et al. 2024); [n].

    mu, beta: its mean and scale. No 0 is appended, as in ComfyUI.
    """
    return torch.tensor(laplace(n, sigma_min, sigma_max, mu, beta), dtype=torch.float32).to(device)


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma = (x - denoised) / sigma, the probability flow (Karras et al. 2022, eq. 3); sigma: [] or [B]."""
    return (x - denoised) / sigma.reshape(*sigma.shape, *[1] * (x.ndim - sigma.ndim))


def get_ancestral_step(
    sigma_from: float | Tensor, sigma_to: float | Tensor, eta: float = 1.0
) -> tuple[float | Tensor, float | Tensor]:
    """(sigma_down, sigma_up): where the ODE step goes, and the noise added after it; their squares sum to sigma_to^2.

    sigma_up = eta sigma_to sqrt(1 - r^2), at most sigma_to, with r the smaller sigma over the larger. eta = 1 is the
    DDPM posterior on the way down; on the way up it is the forward process, and sigma_down = sigma_from.
    """
    if not eta:
        return sigma_to, 0.0
    ratio = min(sigma_from, sigma_to) / max(sigma_from, sigma_to)
    sigma_up = min(sigma_to, eta * sigma_to * (1 - ratio**2) ** 0.5)
    return (sigma_to**2 - sigma_up**2) ** 0.5, sigma_up


def _grid(sigmas: np.ndarray, device: torch.device | str) -> Tensor:
    return append_zero(torch.tensor(sigmas, dtype=torch.float32)).to(device)

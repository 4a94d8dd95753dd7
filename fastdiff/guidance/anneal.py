"""Condition annealing."""

from __future__ import annotations

import torch
from torch import Tensor


def anneal_condition(
    condition: Tensor,
    t: float,
    noise: Tensor,
    *,
    t_clean: float = 0.6,
    t_noise: float = 0.9,
    strength: float = 0.1,
    mix: float = 1.0,
) -> Tensor:
    """The condition for a model call at time t, with noise that fades (Sadat et al. 2024, "CADS: unleashing the
    diversity of diffusion models through condition-annealed sampling"):

        y' = sqrt(gamma) y + strength sqrt(1 - gamma) noise,   y'' = (y' - mean(y')) / std(y') std(y) + mean(y)

    and mix y'' + (1 - mix) y', where gamma is 1 up to t_clean, 0 from t_noise on and linear between, and mean and std
    are over each sample.

    condition, noise: [B, ...] an embedding and standard normal numbers. t: 1 is pure noise, 0 data.
    Returns [B, ...] in condition's dtype. Raises ValueError naming the argument.
    """
    if not 0 <= t_clean < t_noise <= 1:
        raise ValueError(f"t_clean, t_noise: expected 0 <= t_clean < t_noise <= 1, got {t_clean}, {t_noise}")
    if noise.shape != condition.shape:
        raise ValueError(f"noise: expected shape {tuple(condition.shape)}, got {tuple(noise.shape)}")
    gamma = min(max((t_noise - t) / (t_noise - t_clean), 0.0), 1.0)
    if gamma == 1:
        return condition
    y, over = condition.float(), tuple(range(1, condition.ndim))
    noisy = gamma**0.5 * y + strength * (1 - gamma) ** 0.5 * noise
    (std, mean), (std_noisy, mean_noisy) = (torch.std_mean(v, over, keepdim=True) for v in (y, noisy))
    ratio = std / std_noisy.where(std_noisy > 0, 1.0)
    rescaled = (noisy - mean_noisy) * ratio + mean
    return (mix * rescaled + (1 - mix) * noisy).to(condition.dtype)

"""The samplers of stochastic differential equations: DPM-Solver++ SDE, SEEDS and ER-SDE. `samplers` has the arguments.

Those called _gpu are the same as those without: a Brownian path is the same on every device. Where the host's own tree
is drawn from (`register(seed_compat=True)`), theirs is on x's device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import host
from .loop import Denoiser, solve
from .noise import Extra, NoiseSampler, brownian, independent
from .samplers import CORRECTIONS, Callback, correction_of


@torch.no_grad()
def sample_dpmpp_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 1 / 2,
) -> Tensor:
    """The SDE solver with two evaluations a step, after DPM-Solver++ (Lu et al. 2022). r: where the second one lies."""
    return solve(
        model, x, sigmas, "dpmpp_sde", extra_args=extra_args, callback=callback, disable=disable,
        draw=brownian(x, extra_args, noise_sampler, sigmas), whole=True, log_snr=True, rise=eta,
        eta=eta, s_noise=s_noise, r=r,
    )  # fmt: skip


@torch.no_grad()
def sample_dpmpp_2m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "midpoint",
) -> Tensor:
    """DPM-Solver++ 2M for the reverse SDE with noise scaled by eta. solver_type: "midpoint" or "heun"."""
    return solve(
        model, x, sigmas, "dpmpp_2m_sde", extra_args=extra_args, callback=callback, disable=disable,
        draw=brownian(x, extra_args, noise_sampler, sigmas), log_snr=True, rise=eta, eta=eta, s_noise=s_noise,
        correction=correction_of(solver_type, {"midpoint": "midpoint", "heun": "heun"}), lower_order_final=False,
    )  # fmt: skip


@torch.no_grad()
def sample_dpmpp_2m_sde_heun(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "heun",
) -> Tensor:
    """`sample_dpmpp_2m_sde` with the Taylor weights."""
    return sample_dpmpp_2m_sde(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, solver_type
    )


@torch.no_grad()
def sample_dpmpp_3m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver++ 3M for the reverse SDE with noise scaled by eta."""
    return solve(
        model, x, sigmas, "dpmpp_3m_sde", extra_args=extra_args, callback=callback, disable=disable,
        draw=brownian(x, extra_args, noise_sampler, sigmas), log_snr=True, rise=eta,
        eta=eta, s_noise=s_noise, lower_order_final=False,
    )  # fmt: skip


@torch.no_grad()
def sample_seeds_2(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 0.5,
    solver_type: str = "phi_1",
) -> Tensor:
    """SEEDS-2 (Gonzalez et al. 2023, algorithm 3). r: where the second evaluation lies.

    solver_type: "phi_1" or "phi_2".
    """
    return solve(
        model, x, sigmas, "seeds_2", extra_args=extra_args, callback=callback, disable=disable,
        draw=independent(x, extra_args, noise_sampler, sigmas), log_snr=True, rise=eta,
        eta=eta, s_noise=s_noise, r1=r, correction=correction_of(solver_type, CORRECTIONS),
    )  # fmt: skip


@torch.no_grad()
def sample_exp_heun_2_x0_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "phi_2",
) -> Tensor:
    """`sample_seeds_2` with the second evaluation at the step's end: Heun's exponential steps for the SDE."""
    return sample_seeds_2(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, 1.0, solver_type
    )


@torch.no_grad()
def sample_seeds_3(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> Tensor:
    """SEEDS-3 (Gonzalez et al. 2023, algorithm 4)."""
    return solve(
        model, x, sigmas, "seeds_3", extra_args=extra_args, callback=callback, disable=disable,
        draw=independent(x, extra_args, noise_sampler, sigmas), log_snr=True, rise=eta,
        eta=eta, s_noise=s_noise, r1=r_1, r2=r_2,
    )  # fmt: skip


@torch.no_grad()
def sample_er_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    noise_scaler: Callable | None = None,
    max_stage: int = 3,
) -> Tensor:
    """ER-SDE (Cui et al. 2023), order max_stage = 1 to 3.

    noise_scaler: phi(sigma / alpha), on float64 tensors; it sets how much noise is drawn.
    """
    scaler: dict[str, Any] = {} if noise_scaler is None else {"noise_scaler": _on_arrays(noise_scaler)}
    return solve(
        model, x, sigmas, "er_sde", extra_args=extra_args, callback=callback, disable=disable,
        draw=independent(x, extra_args, noise_sampler, sigmas), log_snr=True, rise=float(s_noise > 0),
        s_noise=s_noise, order=max_stage, **scaler,
    )  # fmt: skip


def _on_arrays(function: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.asarray(function(torch.as_tensor(values)))


def _gpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(function)
    def sample(*args: Any, **kwargs: Any) -> Tensor:
        with host.tree_on_device():
            return function(*args, **kwargs)

    sample.__name__ = sample.__qualname__ = f"{function.__name__}_gpu"
    return sample


sample_dpmpp_sde_gpu = _gpu(sample_dpmpp_sde)
sample_dpmpp_2m_sde_gpu = _gpu(sample_dpmpp_2m_sde)
sample_dpmpp_2m_sde_heun_gpu = _gpu(sample_dpmpp_2m_sde_heun)
sample_dpmpp_3m_sde_gpu = _gpu(sample_dpmpp_3m_sde)

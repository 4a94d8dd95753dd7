"""`sample_k`: models that predict v, run by k-diffusion's samplers on x = x0 + sigma noise, or by DDIM."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import kdiffusion as K
from ...kdiffusion.host import standing_in_for
from ...plans.build import plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from ..default_plan import default_plan, partial_plan
from .loop import Callback, draw

LEAST = 0.002  # EDM's sigma_min; the noise that is left at 0.01 is the error of long runs
K_NAMES = (
    "k-heun", "k-lms", "k-dpmpp-2s-ancestral", "k-dpm-2", "k-dpm-fast", "k-dpm-adaptive", "dpmpp-2m", "dpmpp-2m-sde",
    "dpmpp-3m-sde",
)  # fmt: skip
ON_A_RANGE: dict[str, dict[str, float]] = {"k-dpm-fast": {}, "k-dpm-adaptive": {"rtol": 0.01, "atol": 0.01}}


def sample_k(
    model_fn: Callable[..., Tensor],
    noise: Tensor,
    init_data: Tensor | None = None,
    steps: int = 100,
    sampler_type: str | Plan | None = None,
    sigma_min: float = 0.01,
    sigma_max: float = 100,
    rho: float = 1.0,
    device: object = None,
    callback: Callback = None,
    cond_fn: Callable[..., Tensor] | None = None,
    **extra_args: Any,
) -> Tensor:
    """x0 [B, ...] of a model of v: model_fn(x, t [B], **extra_args), alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    noise: [B, ...]. init_data: [B, ...] audio to vary; the run begins at init_data + sigma_max noise.
    steps: of the sampler; of the default, evaluations of the model.
    sampler_type: None for fastdiff's default, an ODE solver whose levels are its own, from sigma_max to clean data. The
        package's names are its samplers, on sigmas that are uniform in the rho-th root of the logarithm: with its seeds
        where k-diffusion is loaded. "v-ddim-cfgpp" is its own code. A plan of `fastdiff.plan(...,
        fastdiff.Schedule.edm(...), prediction="sample")`, a fitted one too, is run whatever `steps` is.
    sigma_max: of v-ddim it is a time, 1 at most. device: not read, noise's is used.
    callback: called with k-diffusion's {"x", "i", "sigma", "sigma_hat", "denoised"}.
    cond_fn: (x, sigma, denoised=, **extra_args) -> a gradient that is added to x0 as sigma^2 cond_fn. The default is
        then DPM-Solver++ 2M, because of the low order.
    extra_args: the model's own; cfg_scale tells the default how strong the guidance is.

    Raises ValueError for an unknown sampler_type.
    """
    if sampler_type in ("v-ddim", "v-ddim-cfgpp"):
        return _ddim(model_fn, noise, init_data, steps, sampler_type, sigma_max, callback, cond_fn, extra_args)
    if sampler_type is None and cond_fn is not None:
        sampler_type = "dpmpp-2m"
    denoiser = _denoiser(model_fn) if cond_fn is None else _conditioned(_denoiser(model_fn), cond_fn)
    x = noise * sigma_max if init_data is None else init_data + noise * sigma_max
    options: dict[str, Any] = {"extra_args": extra_args, "callback": callback, "disable": False}
    if sampler_type is None:
        scale = float(extra_args.get("cfg_scale", 1.0))
        sampler_type = _default(sigma_min, sigma_max, steps, scale, partial=init_data is not None)
    if isinstance(sampler_type, Plan):
        ends = x.new_tensor([sigma_max, sampler_type.end[1]], dtype=torch.float64)
        return K.plan_sampler(sampler_type)(denoiser, x, ends, **options)
    if sampler_type not in K_NAMES:
        raise ValueError(f"Unknown sampler type {sampler_type}")
    sample = getattr(K, "sample_" + sampler_type.removeprefix("k-").replace("-", "_"))
    with _seeds_of_the_package():
        if sampler_type in ON_A_RANGE:
            count = (steps,) if sampler_type == "k-dpm-fast" else ()
            return sample(denoiser, x, sigma_min, sigma_max, *count, **ON_A_RANGE[sampler_type], **options)
        return sample(denoiser, x, _sigmas(steps, sigma_min, sigma_max, rho).to(x.device), **options)


def _sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """[steps + 1] k-diffusion's polyexponential grid bit for bit: a Brownian path moves by the root of a rounding."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return K.append_zero((torch.linspace(1, 0, steps) ** rho * (high - low) + low).exp())


def _default(sigma_min: float, sigma_max: float, steps: int, scale: float, partial: bool) -> Plan:
    schedule = _schedule(min(sigma_min, LEAST), sigma_max)
    if partial:
        return partial_plan(schedule, sigma_max / (1 + sigma_max), steps, "sample", scale)
    return default_plan(schedule, steps, "sample", scale)


@functools.lru_cache(maxsize=32)
def _schedule(least: float, greatest: float) -> Schedule:
    return Schedule.edm(least, greatest)


def _denoiser(model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """D(x, sigma [B], **kwargs) for x = x0 + sigma noise, of a model of v."""

    def denoised(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        root = (s * s + 1).sqrt()
        v = model((x / root).to(x.dtype), (sigma.atan() * (2 / math.pi)).to(x.dtype), **kwargs)
        return (x / (root * root) - v * (s / root)).to(x.dtype)

    return denoised


def _conditioned(denoiser: Callable[..., Tensor], cond_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def denoised(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = denoiser(x, sigma, **kwargs)
            gradient = cond_fn(x, sigma, denoised=x0, **kwargs).detach()
        return x0.detach() + gradient * sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2

    return denoised


def _ddim(
    model: Callable[..., Tensor], noise: Tensor, init_data: Tensor | None, steps: int, name: str, sigma_max: float,
    callback: Callback, cond_fn: Callable[..., Tensor] | None, extra_args: Any,
) -> Tensor:  # fmt: skip
    """The package's v-diffusion, from t = sigma_max on uniform times to the x0 of the last of them."""
    first = min(float(sigma_max), 1.0)
    model = model if cond_fn is None else _conditioned(model, cond_fn)
    angle = first * math.pi / 2
    x = noise if init_data is None else init_data * math.cos(angle) + noise * math.sin(angle)
    if name == "v-ddim-cfgpp":
        from stable_audio_tools.inference import sampling

        return sampling.sample(
            model, x, steps, eta=0.0, sigma_max=first, cfg_pp=True, callback=callback, **extra_args
        )  # fmt: skip
    times = np.linspace(first, 0, steps + 1)[:-1]
    shift = extra_args.pop("dist_shift", None)
    if shift is not None:
        times = shift.time_shift(torch.from_numpy(times), x.shape[-1]).numpy()
    schedule = Schedule.cosine(None, offset=0, t_min=1e-6, t_max=1.0)
    return draw(model, plan("ddim", schedule, grid=times, prediction="v_prediction"), x, callback, extra_args)


def _seeds_of_the_package() -> contextlib.AbstractContextManager[None]:
    """Noise as k-diffusion draws it, where it is loaded."""
    host = sys.modules.get("k_diffusion.sampling")
    return contextlib.nullcontext() if host is None else standing_in_for(host, seed_compat=True)

"""`sample_rf`: rectified flows, x = (1 - t) x0 + t noise, as stable-audio-tools draws from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ...plans.build import plan
from ...plans.plan import Plan
from ...plans.schedule import Schedule
from ..default_plan import default_plan, partial_plan
from .loop import Callback, draw

FLOW = Schedule.flow()
CLEANEST = 2.0  # the log SNR, log((1 - t) / t), of the last step but one on the package's grid
NOISIEST = -6.0  # and of the first
NAMES: dict[str, tuple[str, dict[str, Any]]] = {"euler": ("euler", {}), "dpmpp": ("dpmpp_2m", {"max_ratio": math.inf})}


def sample_rf(
    model_fn: Callable[..., Tensor],
    noise: Tensor,
    init_data: Tensor | None = None,
    steps: int = 100,
    sampler_type: str | Plan | None = None,
    sigma_max: float = 1,
    device: object = None,
    callback: Callback = None,
    cond_fn: object = None,
    **extra_args: Any,
) -> Tensor:
    """x0 [B, ...] of a velocity model: model_fn(x, t [B], **extra_args) -> noise - x0, t = 1 at noise.

    noise: [B, ...]. init_data: [B, ...] audio to vary; the run begins at (1 - sigma_max) init_data + sigma_max noise.
    steps: evaluations of the model.
    sampler_type: None for fastdiff's default, whose times are its own. "euler" and "dpmpp" are the package's, on its
        grid, "rk4" and "pingpong" its own code. A name of `fastdiff.solvers()` that draws no noise is that solver on
        the package's grid. A plan on `fastdiff.Schedule.flow()`, a fitted one too, is run whatever `steps` is.
    sigma_max: the time of the start, where there is init_data; 1 at most. device: not read, noise's is used.
    callback: called after each step with {"x", "t", "sigma", "i", "denoised"}, i from 1 as the package's euler has it.
    extra_args: the model's own; cfg_scale tells the default how strong the guidance is.

    Raises ValueError for an unknown sampler_type, and for cond_fn, with which the package's function fails too.
    """
    if cond_fn is not None:
        raise ValueError("cond_fn: sample_rf has no guidance by a gradient")
    first = min(float(sigma_max), 1.0)
    x = noise if init_data is None else init_data * (1 - first) + noise * first
    if sampler_type in ("rk4", "pingpong"):
        return _of_the_package(str(sampler_type), model_fn, x, steps, first, callback, extra_args)
    extra_args.pop("dist_shift", None)  # the package ignores it here
    disable = bool(extra_args.pop("disable_tqdm", False))
    chosen = _plan(sampler_type, first, steps, float(extra_args.get("cfg_scale", 1.0)))
    return draw(model_fn, chosen, x, callback, extra_args, disable=disable, first=1)


def package_times(first: float, steps: int) -> np.ndarray:
    """[steps + 1] the package's grid: uniform in log SNR up to 2, and then 0."""
    start = math.log((1 - first) / first + 1e-6) if first < 1 else NOISIEST
    t = 1 / (1 + np.exp(np.linspace(start, CLEANEST, steps + 1)))
    t[0], t[-1] = first, 0
    return t


def _plan(sampler_type: str | Plan | None, first: float, steps: int, scale: float) -> Plan:
    if isinstance(sampler_type, Plan):
        return sampler_type
    if sampler_type is None:
        if first == 1:
            return default_plan(FLOW, steps, "flow_prediction", scale)
        return partial_plan(FLOW, first, steps, "flow_prediction", scale)
    name, options = NAMES.get(sampler_type, (sampler_type, {}))
    found = plan(name, FLOW, sigmas=package_times(first, steps), **options)
    if found.stochastic:
        raise ValueError(f"sampler_type: expected one that draws no noise, got {sampler_type!r}")
    return found


def _of_the_package(
    name: str, model: Callable[..., Tensor], x: Tensor, steps: int, first: float, callback: Callback, extra_args: Any
) -> Tensor:
    from stable_audio_tools.inference import sampling

    if name == "rk4":
        return sampling.sample_rk4(model, x, steps, first, callback=callback, **extra_args)
    times = x.new_tensor(package_times(first, steps))
    return sampling.sample_flow_pingpong(model, x, sigmas=times, sigma_max=first, callback=callback, **extra_args)

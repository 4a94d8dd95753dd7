"""The arguments of `StepBatch.add`, checked before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops import checks
from ...plans.plan import Plan
from ..noise import randn, seed_tensor
from ..program import program_of
from ..start import check_sample, start_state
from .bounds import needs_launch
from .options import Options
from .pool import buffers_of
from .scales import scales_of
from .ticket import Asked


def check_plan(plan: Plan, options: Options) -> None:
    """Raises TypeError or ValueError where the plan cannot be run in the batch."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: expected a fastdiff.Plan, got {type(plan).__name__}")
    plan.refuse_cheap_calls("which a StepBatch does not make")
    plan.refuse_reuse("which a StepBatch does not follow")
    if plan.nfe > options.rows:
        raise ValueError(f"plan: it has {plan.nfe} rows, the batch was made for {options.rows} at most; pass it rows=")
    needed = buffers_of(program_of(plan).apart)
    if options.buffers is not None and needed > options.buffers:
        raise ValueError(f"plan: it needs {needed} buffers, the batch has {options.buffers}; pass it buffers=")


def asked_of(
    plan: Plan,
    options: Options,
    noise: Tensor | None,
    seeds: Sequence[int] | Tensor | int | None,
    guidance: Any,
    conditions: Any,
    uncond: Any,
    image: Tensor | None,
    mask: Tensor | None,
    clamp: float | None,
    threshold: float | None,
    threshold_limit: float,
) -> Asked:
    """The request as it is kept. Raises TypeError or ValueError naming the argument."""
    check_plan(plan, options)
    if isinstance(seeds, (int, np.integer)):
        seeds = [int(seeds)]
    noise = _noise(options, noise, seeds)
    check_sample(plan, noise, image, mask, clamp, threshold, threshold_limit, None)
    n = len(noise)
    if not 1 <= n <= options.slots:
        raise ValueError(f"noise: expected 1 to {options.slots} samples, as many as the batch has slots, got {n}")
    told = options.tell(conditions, uncond, n)
    scales = scales_of(plan, guidance, options.uncond, n)
    limits = None if threshold is None else (threshold, threshold_limit)
    start = start_state(plan, noise, image)
    asked = Asked(start, noise, _seeds(plan, seeds, n), scales, *told, image, mask, clamp, limits)
    if options.static and needs_launch(plan, asked):
        name = "clamp" if threshold is None else "threshold"
        raise ValueError(f"{name}: it takes a launch of its own for this plan, which a static batch does not make")
    return asked


def _noise(options: Options, noise: Tensor | None, seeds: Sequence[int] | Tensor | None) -> Tensor:
    """[n, ...] the noise that was given, or that of the seeds."""
    if noise is None:
        if seeds is None:
            raise ValueError("noise: expected it, or seeds to draw it from, got neither")
        shape = (len(seeds), *options.shape)
        return randn(shape, seeds, dtype=options.dtype, device=options.device)
    checks.require_float("noise", noise)
    if noise.ndim == 0 or tuple(noise.shape[1:]) != options.shape:
        raise ValueError(f"noise: expected samples of shape {options.shape}, got {tuple(noise.shape)}")
    checks.require_dtype("noise", noise, options.dtype)
    if noise.device != options.device:
        raise ValueError(f"noise: expected it on {options.device}, got {noise.device}")
    return noise.clone()  # the caller may write to it while the request waits


def _seeds(plan: Plan, seeds: Sequence[int] | Tensor | None, n: int) -> np.ndarray:
    """[n] on the host; random ones where the plan draws noise and there are none."""
    if seeds is None:
        return np.zeros(n, dtype=np.int64) if not plan.stochastic else torch.randint(2**62, (n,)).numpy()
    return seed_tensor(seeds, n, "cpu").numpy()

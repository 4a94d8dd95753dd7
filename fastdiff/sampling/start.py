"""The start of a run: argument checks, the first state, the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..ops import checks
from ..ops.reference import compute_dtype
from ..plans.plan import Plan
from .noise import seed_tensor
from .program import program_of
from .ranks import Ranks

# The options of `fastdiff.sample`: what a model's keyword may be a misspelling of, wherever a model is called.
OPTIONS = (
    "guidance", "uncond", "guidance_mode", "seeds", "image", "mask", "clamp", "threshold", "threshold_limit",
    "model_dtype", "observation", "correction", "particles", "callback", "progress", "return_trajectory", "graph",
    "parallel", "guidance_group", "shard",
)  # fmt: skip


def start_state(plan: Plan, noise: Tensor, image: Tensor | None) -> Tensor:
    """The first x [B, ...], float32 or float64: the scaled noise, or alpha image + sigma noise."""
    dtype = compute_dtype(noise.dtype)
    alpha, sigma = plan.start
    state = noise.to(dtype) * (plan.init_scale if image is None else sigma)
    return state if image is None else state + alpha * image.to(dtype)


def sample_seeds(
    plan: Plan, noise: Tensor, seeds: Sequence[int] | Tensor | None, groups: Sequence[Ranks] = ()
) -> Tensor | None:
    """[B] int64 on noise's device: the given seeds, or random ones if the plan draws noise, else None.

    groups: the processes that have to draw the same.
    """
    if seeds is None and not program_of(plan).stochastic:
        return None
    if seeds is None:
        seeds = torch.randint(2**62, (len(noise),))
        for ranks in groups:
            seeds = ranks.from_first(partial(torch.Tensor.tolist, torch.as_tensor(seeds)))
    return seed_tensor(seeds, len(noise), noise.device)


def refuse_dtensor(name: str, value: Tensor) -> None:
    """Raises TypeError for a DTensor: the model, the kernels and the seeds are each process's own."""
    placements = getattr(value, "placements", None)
    if placements is not None:
        raise TypeError(
            f"{name}: expected a plain torch.Tensor, got a DTensor of placements {placements}; pass its"
            " to_local(), and with shard=fastdiff.Sharded(dim, size, mesh) which part of the samples it is"
        )


def check_sample(
    plan: Plan,
    noise: Tensor,
    image: Tensor | None,
    mask: Tensor | None,
    clamp: float | None,
    threshold: float | None,
    threshold_limit: float,
    model_dtype: torch.dtype | None,
) -> None:
    """Raises TypeError or ValueError naming the argument of `fastdiff.sample` that is wrong."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: expected a fastdiff.Plan, got {type(plan).__name__}")
    checks.require_float("noise", noise)
    refuse_dtensor("noise", noise)
    if noise.ndim == 0:
        raise ValueError("noise: expected [B, ...], got a scalar")
    if model_dtype is not None and model_dtype not in checks.FLOATS:
        raise ValueError(f"model_dtype: expected a floating-point dtype, got {model_dtype}")
    if image is not None:
        checks.require_float("image", image)
        checks.require_shape("image", image, tuple(noise.shape))
        checks.require_device("image", image, noise)
    if mask is not None and image is None:
        raise ValueError("mask: expected the image beside it, got None")
    if mask is not None:
        checks.require_tensor("mask", mask)
        checks.require_device("mask", mask, noise)
        sizes = zip(reversed(mask.shape), reversed(noise.shape), strict=False)
        if mask.ndim > noise.ndim or any(m not in (1, n) for m, n in sizes):
            raise ValueError(f"mask: expected a shape that broadcasts to {tuple(noise.shape)}, got {tuple(mask.shape)}")
    for name, value in (("clamp", clamp), ("threshold", threshold)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    if threshold is not None and threshold > 1:
        raise ValueError(f"threshold: expected a ratio in (0, 1], got {threshold}")
    if not threshold_limit >= 1:
        raise ValueError(f"threshold_limit: expected a number >= 1, got {threshold_limit}")

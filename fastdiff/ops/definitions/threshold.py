"""dynamic_threshold: the per-sample limit of dynamic thresholding, taken before the step that applies it."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..reference import compute_dtype


def dynamic_threshold(x0: Tensor, *, ratio: float = 0.995, limit: float = 1.0) -> Tensor:
    """s = clamp(quantile(|x0|, ratio) over each sample, 1, limit) (Saharia et al. 2022, section 2.3).

    x0: [B, ...], the predicted data. Returns [B] float64, to be given to `solver_step` as `threshold`, which clamps
    the prediction to [-s, s] and divides it by s. ratio in [0, 1]; limit >= 1 is the largest s allowed. A sample
    without elements has s = 1.
    The quantile interpolates linearly between the two nearest order statistics, as `torch.quantile` does, at any size.
    """
    checks.require_float("x0", x0)
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio: expected a number in [0, 1], got {ratio}")
    if not limit >= 1:
        raise ValueError(f"limit: expected a number >= 1, got {limit}")
    if x0.shape[1:].numel() == 0:
        return torch.ones(len(x0), dtype=torch.float64, device=x0.device)
    keep, fraction = order_statistics(x0.shape[1:].numel(), ratio)
    return between(largest(x0, keep), fraction, limit)


def order_statistics(count: int, ratio: float) -> tuple[int, float]:
    """How many of the largest of so many magnitudes are needed, and how far the quantile is from the least of those."""
    position = ratio * (count - 1)
    return count - int(position), position - int(position)


def largest(x0: Tensor, keep: int) -> Tensor:
    """[B, keep] the largest magnitudes of each sample, falling, in the compute dtype; all where there are fewer."""
    magnitudes = x0.unsqueeze(-1).flatten(1).abs().to(compute_dtype(x0.dtype))
    return magnitudes.topk(min(keep, magnitudes.shape[1]), dim=1).values


def between(top: Tensor, fraction: float, limit: float) -> Tensor:
    """[B] float64 the quantile, so far from the last of the magnitudes towards the one before it, inside [1, limit]."""
    lower, upper = top[:, -1].double(), top[:, max(top.shape[1] - 2, 0)].double()
    return torch.lerp(lower, upper, fraction).clamp(1.0, limit)

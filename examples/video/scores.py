"""Where the digit is in each frame, and whether it moves as it should."""

from __future__ import annotations

import torch
from torch import Tensor


def tracked(x: Tensor) -> Tensor:
    """The middle of what is bright in each frame [B, T, 2], row and column in pixels. x [B, 1, T, H, W] in [-1, 1]."""
    bright = (x[:, 0] + 1).clamp(0, 2)
    bright = torch.where(bright > 0.3, bright, 0) + 1e-6
    rows = (bright.sum(3) * torch.arange(x.shape[3])).sum(2)
    columns = (bright.sum(2) * torch.arange(x.shape[4])).sum(2)
    return torch.stack([rows, columns], -1) / bright.sum((2, 3))[..., None]


def unsteady(x: Tensor) -> float:
    """The median change of velocity from frame to frame, pixels a frame: 0 of a digit that nothing stops.

    The median, because a bounce is a change.
    """
    place = tracked(x)
    return float((place[:, 2:] - 2 * place[:, 1:-1] + place[:, :-2]).abs().median())


def velocity_error(x: Tensor, truth: Tensor) -> float:
    """The mean distance of the tracked velocities from the true ones, pixels a frame."""
    return float((tracked(x).diff(dim=1) - tracked(truth).diff(dim=1)).norm(dim=-1).mean())


def apart(x: Tensor, other: Tensor) -> float:
    """The median over videos of the root mean square difference."""
    return float((x - other).square().flatten(1).mean(1).sqrt().median())

"""Blocks of pixels as channels, and back (Shi et al. 2016, section 2), in any number of dimensions."""

import torch
from torch import Tensor


def fold(x: Tensor, patch: int) -> Tensor:
    """[B, C, patch n, ...] -> [B, C patch^d, n, ...]: each block of patch^d pixels becomes one."""
    for axis in range(2, x.ndim if patch > 1 else 0):
        x = torch.cat(x.unflatten(axis, (-1, patch)).unbind(axis + 1), dim=1)
    return x


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    for axis in reversed(range(2, x.ndim if patch > 1 else 0)):
        x = torch.stack(x.chunk(patch, dim=1), dim=axis + 1).flatten(axis, axis + 1)
    return x

"""Memory layouts of outputs."""

from __future__ import annotations

import torch
from torch import Tensor


def layout_of(x: Tensor) -> torch.memory_format:
    """channels_last (4 or 5 dimensions) where x is laid out so, contiguous otherwise."""
    for ndim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.ndim == ndim and x.is_contiguous(memory_format=layout) and not x.is_contiguous():
            return layout
    return torch.contiguous_format


def empty_input(x: Tensor, copies: int, dtype: torch.dtype) -> Tensor:
    """Room for what the model reads, [copies * B, ...] for x [B, ...], in x's layout."""
    shape = (copies * x.shape[0], *x.shape[1:])
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=layout_of(x))

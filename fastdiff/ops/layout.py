"""Memory layouts of outputs."""

from __future__ import annotations

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def layout_of(x: Tensor) -> torch.memory_format:
    """channels_last (4 or 5 dimensions) where x is laid out so, contiguous otherwise."""
    layout = _CHANNELS_LAST.get(x.ndim)
    if layout is None or x.is_contiguous() or not x.is_contiguous(memory_format=layout):
        return torch.contiguous_format
    return layout


def empty_input(x: Tensor, copies: int, dtype: torch.dtype) -> Tensor:
    """Room for what the model reads, [copies * B, ...] for x [B, ...], in x's layout."""
    shape = (copies * x.shape[0], *x.shape[1:])
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=layout_of(x))

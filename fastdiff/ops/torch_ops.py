"""Backend "torch": PyTorch's own op, where it is the best there is for the call."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .registry import Implementation


def group_norm(
    x: Tensor,  # [B, C, ...]
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    act: str,
) -> Tensor:
    per_channel = (-1, x.shape[1]) + (1,) * (x.ndim - 2)
    if add is not None:
        x = x + add.to(x.dtype).view(per_channel)
    weight, bias = (t if t is None else t.to(x.dtype) for t in (weight, bias))
    h = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None:
        h = h * (1 + scale.to(x.dtype).view(per_channel))
    if shift is not None:
        h = h + shift.to(x.dtype).view(per_channel)
    return F.silu(h) if act == "silu" else h


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    # PyTorch takes other strides to a kernel that writes out all queries times keys.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


IMPLEMENTS = {"group_norm": Implementation(group_norm), "attention": Implementation(attention)}

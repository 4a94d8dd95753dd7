"""The function by which models ask PyTorch for attention, on fastdiff's op."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import attention, registry
from .attention_masks import attend_kept, kept_keys

PYTORCHS = F.scaled_dot_product_attention


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """PyTorch's function, by fastdiff's op where that pays."""
    out = attend_where_it_pays(query, key, value, attn_mask, dropout_p, is_causal, scale)
    if out is not None:
        return out
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def attend_where_it_pays(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor | None:
    """softmax(q k^T scale) v by fastdiff's op; None for what it does not do, and where PyTorch's is as good.

    q [B, H, N, D]; k, v [B, H / n, M, D] where n heads share their keys. mask: as in PyTorch's function; it may leave
    out keys. PyTorch's op has the faster backward, and a program that has put another in its place wants that one.
    """
    if dropout or is_causal or F.scaled_dot_product_attention is not PYTORCHS:
        return None
    if not (q.ndim == k.ndim == 4 and k.shape == v.shape and q.dtype == k.dtype == v.dtype):
        return None
    if (len(q), q.shape[3]) != (len(k), k.shape[3]) or q.shape[1] % max(k.shape[1], 1):
        return None
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, mask)):
        return None
    if not pays(q, k):
        return None
    kept = None if mask is None else kept_keys(mask, q, k)
    if mask is not None and kept is None:
        return None
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    return attention(q, k, v, scale=scale) if kept is None else attend_kept(q, k, v, kept, scale)


def pays(q: Tensor, k: Tensor) -> bool:
    """Whether the choice falls on fastdiff's own kernels. A graph that is compiled keeps the choice open."""
    case = registry.CallSpec(q.device.type, q.dtype, (*q.shape[:3], k.shape[2], q.shape[3]))
    return torch.compiler.is_compiling() or registry.chosen("attention", case) != "torch"

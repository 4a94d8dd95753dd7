"""Attention on `fastdiff.ops.attention`: of projected tokens, and torch.nn.MultiheadAttention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.cross_attention import CrossAttentionCache
from ..ops import registry
from .attention_functions import scaled_dot_product_attention
from .calls import computes, wants_gradient
from .fast import Fast


def heads_of(x: Tensor, heads: int) -> Tensor:
    """[B, N, H D] as [B, H, N, D] without a copy."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """Attention of [B, N, H D] and [B, M, H D]; [B, N, H D]. mask: as in PyTorch's function."""
    q, k, v = (heads_of(t, heads) for t in (q, k, v))
    return scaled_dot_product_attention(q, k, v, mask, scale=scale).transpose(1, 2).flatten(2)


def project(
    cache: CrossAttentionCache | None, context: Tensor, to_k: nn.Module, to_v: nn.Module
) -> tuple[Tensor, Tensor]:
    """(to_k(context), to_v(context))."""
    k, v = (to_k(context), to_v(context)) if cache is None else cache.project(context, to_k, to_v)
    return k, v


def multihead(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The module's output for a call that `is_plain`, by fastdiff's op."""
    q, k, v = _projected(module, query, key, value)
    if module.batch_first:
        return module.out_proj(attend(q, k, v, module.num_heads))
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    return module.out_proj(attend(q, k, v, module.num_heads).transpose(0, 1))


def is_plain(module: Any, query: Tensor, masked: bool, need_weights: bool) -> bool:
    """Whether a call is softmax(q k^T) v of a batch and no more."""
    drops = module.training and module.dropout > 0
    extended = module.bias_k is not None or module.add_zero_attn or not module._qkv_same_embed_dim
    return not (masked or need_weights or drops or extended or query.ndim != 3 or query.is_nested)


def _projected(module: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    if query is key and key is value:
        return F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    weights = module.in_proj_weight.chunk(3)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    return tuple(F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True))


def is_multihead(module: nn.Module) -> bool:
    """torch.nn.MultiheadAttention, or a subclass that computes the same."""
    return computes(module, nn.MultiheadAttention)


class FastMultiheadAttention(Fast):
    """torch.nn.MultiheadAttention; calls with masks, weights asked for, dropout or few queries are PyTorch's own."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        masked = key_padding_mask is not None or attn_mask is not None or is_causal
        own = not is_plain(self, query, masked, need_weights)
        own = own or not (torch.compiler.is_compiling() or self._pays(query, key))
        if own or wants_gradient(self, query, key, value):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        return multihead(self, query, key, value), None

    def _pays(self, query: Tensor, key: Tensor) -> bool:
        """Whether the choice would fall on fastdiff's own kernels: PyTorch's module has a faster way to PyTorch's."""
        batch, tokens = (0, 1) if self.batch_first else (1, 0)
        shape = (query.shape[batch], self.num_heads, query.shape[tokens], key.shape[tokens], self.head_dim)
        return registry.chosen("attention", registry.CallSpec(query.device.type, query.dtype, shape)) != "torch"

"""diffusers' dispatch of attention on fastdiff's op. Imported only where diffusers is in use."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.attention_dispatch import dispatch_attention_fn as DISPATCH
from torch import Tensor

from .attention_functions import attend_where_it_pays


def dispatch_attention_fn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    attention_kwargs: dict[str, Any] | None = None,
    *,
    backend: Any = None,
    parallel_config: Any = None,
) -> Tensor:
    """diffusers' function, of heads [B, N, H, D]. Where the user has chosen one of its backends, it is called."""
    native = backend is None and _AttentionBackendRegistry.get_active_backend()[0] is AttentionBackendName.NATIVE
    out = None
    if native and parallel_config is None and not attention_kwargs:
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        mask = attn_mask
        if mask is not None and mask.shape == key.shape[:2]:
            mask = mask[:, None, None]
        out = attend_where_it_pays(q, k, v, mask, dropout_p, is_causal, scale)
    if out is not None:
        return out.transpose(1, 2)
    more = (scale, enable_gqa, attention_kwargs)
    return DISPATCH(
        query, key, value, attn_mask, dropout_p, is_causal, *more, backend=backend, parallel_config=parallel_config
    )

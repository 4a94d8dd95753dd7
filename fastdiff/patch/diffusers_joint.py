"""diffusers' joint attention of image and text tokens (Esser et al. 2024, figure 2b) on fastdiff's op: SD3 and Flux."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from torch import Tensor, nn

from .attention import attend_heads
from .calls import wants_gradient

Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, [B, N, H, D] each


class FastJointAttnProcessor(JointAttnProcessor2_0):
    """SD3's: image tokens first."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor | tuple[Tensor, Tensor]:
        text = encoder_hidden_states
        if args or kwargs or wants_gradient(attn, hidden_states, text):
            return super().__call__(attn, hidden_states, text, attention_mask, *args, **kwargs)
        size = attn.inner_dim // attn.heads
        parts = [_image(attn, hidden_states, size), *([] if text is None else [_text(attn, text, size)])]
        out = _attend(*_joined(parts))
        x, text = out[:, : hidden_states.shape[1]], None if text is None else out[:, hidden_states.shape[1] :]
        x = attn.to_out[1](attn.to_out[0](x))
        if text is None:
            return x
        return x, text if attn.context_pre_only else attn.to_add_out(text)


class FastFluxAttnProcessor(FluxAttnProcessor):
    """Flux's: text tokens first, rotary positions."""

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        text = encoder_hidden_states
        chosen = self._attention_backend is not None or self._parallel_config is not None
        joins = attn.added_kv_proj_dim is not None
        own = chosen or attention_mask is not None or attn.fused_projections or joins != (text is not None)
        if own or wants_gradient(attn, hidden_states, text):
            return super().__call__(attn, hidden_states, text, attention_mask, image_rotary_emb)
        size = attn.head_dim
        parts = [*([_text(attn, text, size)] if joins else []), _image(attn, hidden_states, size)]
        q, k, v = _joined(parts)
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(t, image_rotary_emb, sequence_dim=1) for t in (q, k))
        out = _attend(q, k, v)
        if not joins:
            return out
        text, x = out[:, : text.shape[1]], out[:, text.shape[1] :]
        return attn.to_out[1](attn.to_out[0](x)), attn.to_add_out(text)


def _image(attn: nn.Module, x: Tensor, size: int) -> Heads:
    return _heads(x, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), size)


def _text(attn: nn.Module, x: Tensor, size: int) -> Heads:
    layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    return _heads(x, layers, (attn.norm_added_q, attn.norm_added_k), size)


def _heads(x: Tensor, layers: tuple[nn.Module, ...], norms: tuple[nn.Module | None, ...], size: int) -> Heads:
    q, k, v = (layer(x).unflatten(-1, (-1, size)) for layer in layers)
    q, k = (t if norm is None else norm(t) for t, norm in zip((q, k), norms, strict=True))
    return q, k, v


def _joined(parts: list[Heads]) -> Heads:
    return parts[0] if len(parts) == 1 else tuple(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, N, H, D] each; [B, N, H D]."""
    return attend_heads(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)

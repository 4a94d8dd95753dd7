"""diffusers' attention with rotary positions (Su et al. 2021) on fastdiff's op: Wan and Stable Audio."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention, StableAudioAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from .attention import attend_heads, heads_of
from .calls import wants_gradient

TEXT_TOKENS = 512  # of Wan's prompts; what comes before them is an image


class FastWanAttnProcessor(WanAttnProcessor):
    """Wan's: queries and keys normalised over all heads together, and a second attention to the tokens of an image."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        chosen = self._attention_backend is not None or self._parallel_config is not None
        own = chosen or attention_mask is not None or attn.fused_projections
        if own or wants_gradient(attn, hidden_states, context):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        image = None
        if attn.add_k_proj is not None:
            image, context = context.tensor_split([context.shape[1] - TEXT_TOKENS], dim=1)
        q = heads_of(attn.norm_q(attn.to_q(hidden_states)), attn.heads)
        k = heads_of(attn.norm_k(attn.to_k(context)), attn.heads)
        v = heads_of(attn.to_v(context), attn.heads)
        if rotary_emb is not None:
            q, k = (_turned(t, *rotary_emb) for t in (q, k))
        out = attend_heads(q, k, v)
        if image is not None:
            k = heads_of(attn.norm_added_k(attn.add_k_proj(image)), attn.heads)
            out = out + attend_heads(q, k, heads_of(attn.add_v_proj(image), attn.heads))
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2).type_as(q)))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, H, N, D] with each pair of neighbours turned; cos and sin [1, N, 1, D], every number twice."""
    cos, sin = cos[..., 0::2].transpose(1, 2), sin[..., 1::2].transpose(1, 2)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).type_as(x)


class FastStableAudioAttnProcessor(StableAudioAttnProcessor2_0):
    """Stable Audio's: the first part of each head is turned, and keys may be shared by several heads."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        own = attention_mask is not None or hidden_states.ndim == 4
        if own or wants_gradient(attn, hidden_states, context):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        q = heads_of(attn.to_q(hidden_states), attn.heads)
        k, v = (layer(context).unflatten(-1, (-1, q.shape[-1])).transpose(1, 2) for layer in (attn.to_k, attn.to_v))
        k, v = (t.repeat_interleave(attn.heads // t.shape[1], dim=1) if t.shape[1] < attn.heads else t for t in (k, v))
        q, k = (t if norm is None else norm(t) for t, norm in ((q, attn.norm_q), (k, attn.norm_k)))
        if rotary_emb is not None:
            q = _first_part_turned(q, rotary_emb)
            k = k if attn.is_cross_attention else _first_part_turned(k, rotary_emb)
        out = attend_heads(q, k, v).transpose(1, 2).flatten(2).to(q.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def _first_part_turned(x: Tensor, rotary_emb: tuple[Tensor, Tensor]) -> Tensor:
    part = rotary_emb[0].shape[-1]
    turned = apply_rotary_emb(x[..., :part].float(), rotary_emb, use_real_unbind_dim=-2)
    return torch.cat((turned.to(x.dtype), x[..., part:]), dim=-1)

"""diffusers' residual blocks and attention processors on fastdiff's ops. Imported only where diffusers is in use."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from ..nn.cross_attention import CrossAttentionCache
from .attention import attend, project
from .calls import wants_gradient
from .norms import is_norm, is_silu, normalise

PROCESSORS = (AttnProcessor, AttnProcessor2_0)


class FastResnetBlock2D(ResnetBlock2D):
    """ResnetBlock2D with the embedding, its scale and shift, and both SiLUs inside the normalisations."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None, *args: object, **kwargs: object) -> Tensor:
        h = normalise(self.norm1, input_tensor, act="silu")
        skip = input_tensor
        resample = self.upsample if self.upsample is not None else self.downsample
        if resample is not None:
            skip, h = resample(skip), resample(h)
        h = self.conv1(h)
        h = normalise(self.norm2, h, **self._modulation(temb), act="silu")
        h = self.conv2(self.dropout(h))
        if self.conv_shortcut is not None:
            skip = self.conv_shortcut(skip)
        out = skip + h
        return out if self.output_scale_factor == 1 else out / self.output_scale_factor

    def _modulation(self, temb: Tensor | None) -> dict[str, Tensor]:
        if self.time_emb_proj is not None:
            temb = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        if self.time_embedding_norm == "scale_shift":
            scale, shift = temb.chunk(2, dim=1)
            return {"scale": scale, "shift": shift}
        return {} if temb is None else {"add": temb}


def is_resnet_block(module: torch.nn.Module) -> bool:
    """A block whose forward is the one above: the stock class, with SiLU, one embedding a sample, no hooked norms."""
    if type(module) is not ResnetBlock2D or module.time_embedding_norm not in ("default", "scale_shift"):
        return False
    if module.time_embedding_norm == "scale_shift" and module.time_emb_proj is None:
        return False
    return is_silu(module.nonlinearity) and is_norm(module.norm1) and is_norm(module.norm2)


class FastAttnProcessor(AttnProcessor2_0):
    """AttnProcessor2_0 on fastdiff's op; calls with further arguments go to the processor it stands for."""

    def __init__(self, original: AttnProcessor | AttnProcessor2_0, cache: CrossAttentionCache | None) -> None:
        super().__init__()
        self.original, self.cache = original, cache

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        if args or kwargs or wants_gradient(attn, hidden_states, encoder_hidden_states):
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs)
        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        size = x.shape[2:] if x.ndim == 4 else None
        x = x if size is None else x.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        q = attn.to_q(x)
        if encoder_hidden_states is None:
            k, v = attn.to_k(x), attn.to_v(x)
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(encoder_hidden_states)
            k, v = attn.to_k(context), attn.to_v(context)
        else:
            k, v = project(self.cache, encoder_hidden_states, attn.to_k, attn.to_v)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, k.shape[1], len(k))
            attention_mask = attention_mask.reshape(len(k), attn.heads, -1, attention_mask.shape[-1])
        x = attn.to_out[1](attn.to_out[0](attend(q, k, v, attn.heads, attn.scale, attention_mask)))
        if size is not None:
            x = x.transpose(1, 2).unflatten(2, size)
        if attn.residual_connection:
            x = x + hidden_states
        return x if attn.rescale_output_factor == 1 else x / attn.rescale_output_factor


def is_attention(module: torch.nn.Module) -> bool:
    """A stock Attention with a stock processor, no normalised queries and keys, and the usual scale."""
    if type(module) is not Attention or type(module.processor) not in PROCESSORS:
        return False
    plain = module.norm_q is None and module.norm_k is None and module.inner_kv_dim == module.inner_dim
    usual = module.scale == (module.inner_dim // module.heads) ** -0.5 or type(module.processor) is AttnProcessor
    return plain and usual and module.to_k is not None and module.to_out is not None

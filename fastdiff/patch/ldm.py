"""Blocks of DDPM, guided-diffusion, LDM and ComfyUI, which every project has its own copy of, on fastdiff's ops.

They are known by the names of the class, of its parts and of its call's arguments. A class that has anything else is
another one and is left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.cross_attention import CrossAttentionCache
from ..ops import attention
from .attention import attend, project
from .calls import wants_gradient
from .fast import Fast, subclass
from .norms import is_norm, is_silu, normalise


class FastCrossAttention(Fast):
    """LDM's CrossAttention: heads side by side in the channels."""

    fastdiff_cache: CrossAttentionCache | None

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is not None or wants_gradient(self, x, context):
            return super().forward(x, context=context, mask=mask)
        if context is None:
            k, v = self.to_k(x), self.to_v(x)
        else:
            k, v = project(self.fastdiff_cache, context, self.to_k, self.to_v)
        return self.to_out(attend(self.to_q(x), k, v, self.heads, self.scale))


class FastQKVAttention(Fast):
    """guided-diffusion's attention of [B, 3 H D, N]: all queries, then all keys, then all values."""

    def forward(self, qkv: Tensor) -> Tensor:
        if wants_gradient(self, qkv):
            return super().forward(qkv)
        q, k, v = (t.mT for t in self._split(qkv))
        return attention(q, k, v).mT.reshape(len(qkv), -1, qkv.shape[-1])

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(1, (3, self.n_heads, -1)).unbind(1)


class FastQKVAttentionLegacy(FastQKVAttention):
    """The same, head after head."""

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(1, (self.n_heads, 3, -1)).unbind(2)


class FastAttnBlock(Fast):
    """The autoencoder's self-attention: one head as wide as the channels."""

    def forward(self, x: Tensor) -> Tensor:
        if wants_gradient(self, x):
            return super().forward(x)
        h = normalise(self.norm, x)
        q, k, v = (layer(h).flatten(2).mT.unsqueeze(1) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attention(q, k, v)[:, 0].mT.reshape(h.shape))


class FastResBlock(Fast):
    """guided-diffusion's and LDM's block: the embedding, as a bias or as scale and shift, inside the second norm."""

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.updown:
            h, x = self.h_upd(self.in_layers[:-1](x)), self.x_upd(x)
            h = self.in_layers[-1](h)
        else:
            h = self.in_layers(x)
        norm, _, *rest = self.out_layers
        emb = self.emb_layers(emb).type(h.dtype)
        names = ("scale", "shift") if self.use_scale_shift_norm else ("add",)
        h = normalise(norm, h, **dict(zip(names, emb.chunk(len(names), dim=1), strict=True)), act="silu")
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class FastResnetBlock(Fast):
    """The autoencoder's block."""

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.conv1(normalise(self.norm1, x, act="silu"))
        add = None if temb is None else self.temb_proj(F.silu(temb))
        h = self.conv2(self.dropout(normalise(self.norm2, h, add, act="silu")))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return x + h


@dataclass(frozen=True)
class _Known:
    """A class by what its objects have; a name with a question mark may be missing."""

    fast: type
    names: str
    call: str
    method: str = "forward"

    def fits(self, module: nn.Module) -> bool:
        allowed = {name.rstrip("?") for name in self.names.split()}
        needed = {name for name in self.names.split() if not name.endswith("?")}
        parts = {name for name, part in module._modules.items() if part is not None}  # one part may have two names
        names = parts | vars(module).keys() - vars(nn.Module()).keys()
        method = getattr(type(module), self.method, None)
        return needed <= names <= allowed and method is not None and _arguments(method) == ["self", *self.call.split()]


def _arguments(method: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(method).parameters)


_ATTENTIONS = {
    "CrossAttention": _Known(FastCrossAttention, "to_q to_k to_v to_out heads scale", "x context mask"),
    "QKVAttention": _Known(FastQKVAttention, "n_heads", "qkv"),
    "QKVAttentionLegacy": _Known(FastQKVAttentionLegacy, "n_heads", "qkv"),
    "AttnBlock": _Known(FastAttnBlock, "in_channels norm q k v proj_out", "x"),
}
_BLOCKS = {
    "ResBlock": _Known(
        FastResBlock,
        "channels emb_channels dropout out_channels use_conv use_checkpoint use_scale_shift_norm updown"
        " exchange_temb_dims? skip_t_emb? in_layers h_upd x_upd emb_layers out_layers skip_connection",
        "x emb",
        "_forward",
    ),
    "ResnetBlock": _Known(
        FastResnetBlock,
        "in_channels out_channels use_conv_shortcut norm1 conv1 temb_proj? norm2 dropout conv2"
        " conv_shortcut? nin_shortcut?",
        "x temb",
    ),
}


def fast_attention(module: nn.Module) -> type | None:
    """The module's class on fastdiff's ops, where it is one of the attentions above."""
    known = _ATTENTIONS.get(type(module).__name__)
    return subclass(known.fast, type(module)) if known is not None and known.fits(module) else None


def fast_block(module: Any) -> type | None:
    """The module's class on fastdiff's ops, where it is one of the residual blocks above, with SiLU."""
    known = _BLOCKS.get(type(module).__name__)
    if known is None or not known.fits(module):
        return None
    if known.fast is FastResBlock:
        norm, act, *_ = module.out_layers
        each_sample = not (getattr(module, "exchange_temb_dims", False) or getattr(module, "skip_t_emb", False))
        fuses = is_norm(norm) and is_silu(act) and each_sample  # ComfyUI's may have one embedding a frame, or none
    else:
        fuses = is_norm(module.norm1) and is_norm(module.norm2) and _means_silu(type(module))
    return subclass(known.fast, type(module)) if fuses else None


def _means_silu(cls: Any) -> bool:
    """Whether the function `nonlinearity` in the class's file is SiLU."""
    function, probe = cls.forward.__globals__.get("nonlinearity"), torch.linspace(-9, 9, 37)
    return function is not None and torch.allclose(function(probe), F.silu(probe))

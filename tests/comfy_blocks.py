"""Stand-ins for ComfyUI's classes, with the names, parts and calls that fastdiff.accelerate knows them by."""

from __future__ import annotations

import copy
from collections.abc import Callable

import ldm_blocks
import torch
from torch import Tensor, nn


class CastWeightBiasOp:
    comfy_cast_weights = False
    weight_function: tuple | list = ()
    bias_function: tuple | list = ()


class GroupNorm(nn.GroupNorm, CastWeightBiasOp):
    """Its weights may be patched, moved and cast at the call."""

    def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        for function in self.weight_function:
            weight = function(weight)
        for function in self.bias_function:
            bias = function(bias)
        return nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)

    def forward(self, *args: Tensor) -> Tensor:
        if self.comfy_cast_weights or self.weight_function or self.bias_function:
            return self.forward_comfy_cast_weights(*args)
        return super().forward(*args)


class CastingGroupNorm(GroupNorm):
    comfy_cast_weights = True


class ResBlock(ldm_blocks.ResBlock):
    """The embedding may be one a frame, or none."""

    def __init__(self, channels: int, norm: type, exchange: bool = False, skip: bool = False) -> None:
        super().__init__(channels, channels)
        self.exchange_temb_dims, self.skip_t_emb = exchange, skip
        self.in_layers[0], self.out_layers[0] = norm(8, channels), norm(4, channels)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.skip_t_emb:
            return x + self.out_layers(self.in_layers(x))
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.exchange_temb_dims:
            emb = emb.mean(1, keepdim=True)
        return x + self.out_layers(self.in_layers(x) + emb)


def optimized_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, attn_precision=None,
    skip_reshape: bool = False, skip_output_reshape: bool = False, transformer_options: dict | None = None, **_: object,
) -> Tensor:  # fmt: skip
    override = (transformer_options or {}).get("optimized_attention_override")
    if override is not None:
        named = {"mask": mask, "attn_precision": attn_precision, "skip_reshape": skip_reshape}
        named |= {"skip_output_reshape": skip_output_reshape, "transformer_options": transformer_options}
        return override(_attention, q, k, v, heads, **named)
    return _attention(q, k, v, heads, mask, skip_reshape=skip_reshape, skip_output_reshape=skip_output_reshape)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, skip_reshape: bool = False,
    skip_output_reshape: bool = False, **_: object,
) -> Tensor:  # fmt: skip
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = nn.functional.scaled_dot_product_attention(q, k, v, mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    def __init__(self, size: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads, self.dim_head, self.attn_precision = heads, size // heads, None
        self.to_q, self.to_out = nn.Linear(size, size), nn.Sequential(nn.Linear(size, size), nn.Dropout(0.0))
        self.to_k, self.to_v = nn.Linear(context, size), nn.Linear(context, size)

    def forward(
        self, x: Tensor, context: Tensor | None = None, value: Tensor | None = None, mask: Tensor | None = None,
        transformer_options: dict | None = None,
    ) -> Tensor:  # fmt: skip
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(optimized_attention(q, k, v, self.heads, mask, transformer_options=transformer_options))


class UNetModel(nn.Module):
    def __init__(self, norm: type = GroupNorm) -> None:
        super().__init__()
        kinds = ({}, {"exchange": True}, {"skip": True})
        self.blocks = nn.ModuleList([ResBlock(32, norm, **kind) for kind in kinds])
        self.norm, self.attention = norm(4, 32), CrossAttention(32, 24, 2)
        self.out = nn.Sequential(norm(4, 32), nn.SiLU(), nn.Conv2d(32, 4, 1))

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, mask=None, transformer_options=None) -> Tensor:
        for block in self.blocks:
            x = block(x, emb)
        tokens = self.norm(x).flatten(2).mT
        tokens = self.attention(tokens, context, mask=mask, transformer_options=transformer_options)
        return self.out(x + tokens.mT.unflatten(2, x.shape[2:]))


class ModelPatcher:
    """Clones share the model; object patches stand in it while a clone runs."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.object_patches, self.model_options = model, {}, {"transformer_options": {}}

    def clone(self) -> ModelPatcher:
        other = ModelPatcher(self.model)
        other.object_patches, other.model_options = dict(self.object_patches), copy.deepcopy(self.model_options)
        return other

    def add_object_patch(self, name: str, thing: object) -> None:
        self.object_patches[name] = thing

    @torch.no_grad()
    def run(self, call: Callable) -> Tensor:
        """call(the patched diffusion model, its options)."""
        before = {name: self._set(name, patch) for name, patch in self.object_patches.items()}
        try:
            return call(self.model.diffusion_model, self.model_options["transformer_options"])
        finally:
            for name, thing in before.items():
                self._set(name, thing)

    def _set(self, name: str, thing: object) -> object:
        *path, last = name.split(".")
        owner = self.model
        for part in path:
            owner = getattr(owner, part)
        before = getattr(owner, last)
        setattr(owner, last, thing)
        return before

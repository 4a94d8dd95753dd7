"""Why accelerate has left a normalisation or an attention as it was."""

from __future__ import annotations

from torch import nn

from .norms import why_other


def why_left(module: nn.Module, group_norm: bool, attention: bool) -> str | None:
    """What the module is and why it was left; None for what accelerate has no business with."""
    kind = type(module).__name__
    if isinstance(module, nn.GroupNorm):
        return f"{kind}: {why_other(module) or 'another patch stands in its place'}" if group_norm else None
    if not attention or not _is_attention(module) or any(map(_is_attention, list(module.modules())[1:])):
        return None  # or it is made of others
    if "forward" in vars(module):
        return f"{kind}: its forward was replaced on the object, as offloading does"
    if "optimized_attention" in getattr(type(module).forward, "__globals__", ()):
        return f"{kind}: ComfyUI's attention is changed through a ModelPatcher; give accelerate that"
    if (processor := getattr(module, "processor", None)) is not None:
        kind = f"{kind} with {type(processor).__name__}"
    return f"{kind}: it calls neither PyTorch's scaled_dot_product_attention nor diffusers' dispatch_attention_fn"


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name

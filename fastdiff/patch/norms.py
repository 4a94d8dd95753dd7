"""Group normalisations, and those that a SiLU follows, on `fastdiff.ops.group_norm`. Weights are read at call time."""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import group_norm
from ..ops.checks import FLOATS
from .calls import computes, hooked, wants_gradient
from .fast import Fast, subclass


def normalise(
    norm: Any,
    x: Tensor,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:
    """act(norm(x + add) * (1 + scale) + shift), add, scale, shift [B, C]; by the norm's own code where it must be.

    norm: a torch.nn.GroupNorm, of whatever subclass or mixture.
    """
    modulated = add is not None or scale is not None
    fuses = is_norm(norm) and _weights_are_its_own(norm, x) and not wants_gradient(norm, x, add, scale, shift)
    if fuses and (modulated or not _is_small(x, act)):
        return _fused(norm, x, act, add=add, scale=scale, shift=shift)
    per_channel = (*x.shape[:2], *[1] * (x.ndim - 2))
    h = norm(x if add is None else x + add.view(per_channel))
    if scale is not None:
        h = h * (1 + scale.view(per_channel))
    if shift is not None:
        h = h + shift.view(per_channel)
    return F.silu(h) if act == "silu" else h


def _is_small(x: Tensor, act: str) -> bool:
    """Whether PyTorch's ops are through before fastdiff's, which does less but chooses in Python, has begun."""
    return x.numel() < _SMALL[act] and x.device.type == "cpu"


_SMALL = {"none": 1 << 15, "silu": 1 << 14}  # elements, measured


def _fused(norm: Any, x: Tensor, act: str, **modulation: Tensor | None) -> Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, act=act, **modulation)


class FastGroupNorm(Fast):
    """torch.nn.GroupNorm, or one of the subclasses that compute the same."""

    def forward(self, input: Tensor) -> Tensor:
        own = wants_gradient(self, input) or _is_small(input, "none") or not _weights_are_its_own(self, input)
        return super().forward(input) if own else _fused(self, input, "none")


class FastGroupNormSiLU(nn.GroupNorm):
    """torch.nn.GroupNorm and the SiLU after it, which is a `SiLUDone`."""

    def forward(self, input: Tensor) -> Tensor:
        own = wants_gradient(self, input) or _is_small(input, "silu")
        return F.silu(super().forward(input)) if own else _fused(self, input, "silu")


class SiLUDone(nn.SiLU):
    """A SiLU that the norm before it has applied."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class FastSequential(Fast):
    """torch.nn.Sequential that runs each group normalisation together with the SiLU that follows it."""

    def forward(self, input: Tensor) -> Tensor:
        layers, i = list(self), 0
        while i < len(layers):
            fuses = i + 1 < len(layers) and is_norm(layers[i]) and is_silu(layers[i + 1])
            input = normalise(layers[i], input, act="silu") if fuses else layers[i](input)
            i += 2 if fuses else 1
        return input


def has_pair(layers: Any) -> bool:
    """Whether a SiLU follows a group normalisation somewhere."""
    return any(is_norm(a) and is_silu(b) for a, b in zip(layers, list(layers)[1:], strict=False))


_OWN = vars(nn.GroupNorm(1, 1)).keys()


def is_norm(layer: nn.Module) -> bool:
    """A group normalisation whose call can be replaced: no hooks, and no other computation than torch.nn's."""
    return why_other(layer) is None


def why_other(layer: nn.Module) -> str | None:
    """Why the layer's call cannot be replaced; None where it can."""
    if not isinstance(layer, nn.GroupNorm):
        return "no torch.nn.GroupNorm"
    cls: Any = type(layer).__bases__[1] if isinstance(layer, FastGroupNorm) else type(layer)
    if cls.forward is not nn.GroupNorm.forward and not _casts_to_float(layer, cls) and not _casts_weights(cls):
        return "its forward is its class's own"
    return "it has hooks, or a forward of its own" if hooked(layer) else None


def fast_norm(layer: nn.Module) -> type:
    """The class of a norm that is one by itself."""
    return subclass(FastGroupNorm, type(layer))


def is_silu(layer: nn.Module | None) -> bool:
    """torch.nn.SiLU, without hooks."""
    return layer is not None and computes(layer, nn.SiLU) and not hooked(layer)


def _casts_to_float(layer: nn.Module, cls: type) -> bool:
    """GroupNorm32 of guided-diffusion and LDM: in float32 whatever x is, as fastdiff's op computes anyway."""
    return cls.__name__ == "GroupNorm32" and cls.__bases__ == (nn.GroupNorm,) and vars(layer).keys() == _OWN


_CASTS = {"comfy_cast_weights", "weight_function", "bias_function"}


@functools.cache
def _casts_weights(cls: type) -> bool:
    """ComfyUI's: torch.nn's but that weights may be moved, cast and patched whenever they are used."""
    owner = next(base for base in cls.__mro__ if "forward" in vars(base))  # of the forward that is called
    known = "forward_comfy_cast_weights" in vars(owner) and owner.__bases__[0] is nn.GroupNorm
    return known and all(hasattr(cls, name) for name in _CASTS)


def _weights_are_its_own(norm: Any, x: Tensor) -> bool:
    """Whether a norm whose weights may be moved or patched at the call has them where x is, as they are stored.

    A cast to x's dtype needs no care: the op reads weights of any.
    """
    if not hasattr(type(norm), "comfy_cast_weights"):
        return True
    weights = [t for t in (norm.weight, norm.bias) if t is not None]
    there = all(t.device == x.device and t.dtype in FLOATS for t in weights)
    return there and not norm.weight_function and not norm.bias_function

"""Group normalisations, and those that a SiLU follows, on `fastdiff.ops.group_norm`. Weights are read at call time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import group_norm
from .calls import hooked, wants_gradient


def normalise(
    norm: nn.GroupNorm,
    x: Tensor,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:
    """act(norm(x + add) * (1 + scale) + shift), add, scale, shift [B, C]; by the norm's own code where it must be."""
    modulated = add is not None or scale is not None
    if is_norm(norm) and not wants_gradient(norm, x, add, scale, shift) and (modulated or not _is_small(x, act)):
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


def _fused(norm: nn.GroupNorm, x: Tensor, act: str, **modulation: Tensor | None) -> Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, act=act, **modulation)


class FastGroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm."""

    def forward(self, input: Tensor) -> Tensor:
        own = wants_gradient(self, input) or _is_small(input, "none")
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


class FastSequential(nn.Sequential):
    """torch.nn.Sequential that runs each group normalisation together with the SiLU that follows it."""

    def forward(self, input: Tensor) -> Tensor:
        layers, i = list(self), 0
        while i < len(layers):
            fuses = i + 1 < len(layers) and is_norm(layers[i]) and is_silu(layers[i + 1])
            input = normalise(layers[i], input, act="silu") if fuses else layers[i](input)
            i += 2 if fuses else 1
        return input


_OWN = vars(nn.GroupNorm(1, 1)).keys()


def is_norm(layer: nn.Module) -> bool:
    """A group normalisation whose call can be replaced: no subclass but one that computes in float32, no hooks."""
    known = type(layer) in (nn.GroupNorm, FastGroupNorm) or _casts_to_float(layer)
    return known and not hooked(layer)


def is_silu(layer: nn.Module | None) -> bool:
    """torch.nn.SiLU itself, without hooks."""
    return type(layer) is nn.SiLU and not hooked(layer)


def _casts_to_float(layer: nn.Module) -> bool:
    """GroupNorm32 of guided-diffusion and LDM: in float32 whatever x is, as fastdiff's op computes anyway."""
    cls = type(layer)
    return cls.__name__ == "GroupNorm32" and cls.__bases__ == (nn.GroupNorm,) and vars(layer).keys() == _OWN

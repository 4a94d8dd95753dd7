"""Group normalisations, and those that a SiLU follows, on `fastdiff.ops.group_norm`. Weights are read at call time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import group_norm


def wants_gradient(module: nn.Module, *inputs: Tensor | None) -> bool:
    """Whether autograd records this call: PyTorch's own op has the faster backward."""
    if not torch.is_grad_enabled():
        return False
    tensors = (*inputs, *module.parameters(recurse=False))
    return any(t is not None and t.requires_grad for t in tensors)


def normalise(
    norm: nn.GroupNorm,
    x: Tensor,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:
    """act(norm(x + add) * (1 + scale) + shift), add, scale and shift [B, C]; hooks of the norm are not run."""
    if not wants_gradient(norm, x, add, scale, shift):
        return group_norm(
            x, norm.num_groups, norm.weight, norm.bias, norm.eps, add=add, scale=scale, shift=shift, act=act
        )  # fmt: skip
    per_channel = (*x.shape[:2], *[1] * (x.ndim - 2))
    h = x if add is None else x + add.view(per_channel)
    h = F.group_norm(h, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if scale is not None:
        h = h * (1 + scale.view(per_channel))
    if shift is not None:
        h = h + shift.view(per_channel)
    return F.silu(h) if act == "silu" else h


class FastGroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self, x)


class FastGroupNormSiLU(nn.GroupNorm):
    """torch.nn.GroupNorm and the SiLU after it, which is a `SiLUDone`."""

    def forward(self, x: Tensor) -> Tensor:
        return normalise(self, x, act="silu")


class SiLUDone(nn.SiLU):
    """A SiLU that the norm before it has applied."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class FastSequential(nn.Sequential):
    """torch.nn.Sequential that runs each group normalisation together with the SiLU that follows it."""

    def forward(self, x: Tensor) -> Tensor:
        layers, i = list(self), 0
        while i < len(layers):
            fuses = i + 1 < len(layers) and is_norm(layers[i]) and is_silu(layers[i + 1])
            x = normalise(layers[i], x, act="silu") if fuses else layers[i](x)
            i += 2 if fuses else 1
        return x


def is_norm(layer: nn.Module) -> bool:
    """A group normalisation whose call can be replaced: no subclass but one that computes in float32, no hooks."""
    known = type(layer) in (nn.GroupNorm, FastGroupNorm) or _casts_to_float(type(layer))
    return known and not _hooked(layer)


def is_silu(layer: nn.Module | None) -> bool:
    """torch.nn.SiLU itself, without hooks."""
    return type(layer) is nn.SiLU and not _hooked(layer)


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def _casts_to_float(cls: type) -> bool:
    """GroupNorm32 of guided-diffusion and LDM: in float32 whatever x is, as fastdiff's op computes anyway."""
    return cls.__name__ == "GroupNorm32" and cls.__bases__ == (nn.GroupNorm,)

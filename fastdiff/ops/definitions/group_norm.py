"""group_norm: normalisation, the additions around it and the activation as one op."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, registry, torch_ops
from ..layout import layout_of
from ..torch_library import register

ACTIVATIONS = ("none", "silu")


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = "none",
) -> Tensor:
    """y = act(GN(x + add) * (1 + scale) + shift), group normalisation (Wu & He 2018) with its neighbours.

    x: [B, C, ...] float32, float64, float16 or bfloat16, contiguous or channels_last; y has x's dtype and layout.
    groups: divides C; each (sample, group) is normalised over its channels and positions with the biased variance.
    weight, bias: [C]. add, scale, shift: [B, C], constant over positions (time embedding; AdaGN's modulation).
    act: "none" or "silu". Statistics in float32 (float64 for float64 x). Differentiable in all tensors. In bfloat16
    results below 2^-126 may be rounded to 0.
    Raises TypeError or ValueError naming the argument.

    >>> x, embedding = torch.randn(2, 64, 16, 16), torch.randn(2, 64)
    >>> group_norm(x, 32, add=embedding, act="silu").shape
    torch.Size([2, 64, 16, 16])
    """
    _check(x, groups, weight, bias, eps, add, scale, shift, act)
    return _call(x, groups, weight, bias, eps, add, scale, shift, act)


def _check(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    act: str,
) -> None:
    checks.require_float("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected [B, C, ...], got shape {tuple(x.shape)}")
    batch, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: expected a divisor of the {channels} channels, got {groups}")
    if not eps >= 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act: expected one of {', '.join(ACTIVATIONS)}, got {act!r}")
    for name, tensor, shape in (
        ("weight", weight, (channels,)),
        ("bias", bias, (channels,)),
        ("add", add, (batch, channels)),
        ("scale", scale, (batch, channels)),
        ("shift", shift, (batch, channels)),
    ):
        if tensor is not None:
            checks.require_float(name, tensor)
            checks.require_shape(name, tensor, shape)
            checks.require_device(name, tensor, x)


def _run(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    act: str,
) -> Tensor:
    run = registry.choose("group_norm", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
    if x.numel() == 0:  # whose strides mean nothing
        return _meta(x, groups, weight, bias, eps, add, scale, shift, act)
    return run(x, groups, weight, bias, eps, add, scale, shift, act).contiguous(memory_format=layout_of(x))


def _meta(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    act: str,
) -> Tensor:
    return torch.empty_like(x, memory_format=layout_of(x))


_call = register(
    "group_norm(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps, Tensor? add, Tensor? scale,"
    " Tensor? shift, str act) -> Tensor",
    _run,
    _meta,
    torch_ops.group_norm,  # its own backward kernel, where the reference's formula would be many
)

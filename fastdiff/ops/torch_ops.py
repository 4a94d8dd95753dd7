"""Backend "torch": PyTorch's own op, where it is the best there is for the call."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from .call_spec import Implementation
from .layout import layout_of
from .reference import from_first


def group_norm(
    x: Tensor,  # [B, C, ...]
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    act: str,
) -> Tensor:
    """`reference.group_norm` by PyTorch's kernel, computed in x's dtype. Differentiable."""
    per_channel = (-1, x.shape[1]) + (1,) * (x.ndim - 2)
    if add is not None:
        x = x + add.to(x.dtype).view(per_channel)
    weight, bias = (t if t is None else t.to(x.dtype) for t in (weight, bias))
    h = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None:
        h = h * (1 + scale.to(x.dtype).view(per_channel))
    if shift is not None:
        h = h + shift.to(x.dtype).view(per_channel)
    return F.silu(h) if act == "silu" else h


def run_group_norm(
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
    """`group_norm` that loses no digits of a large mean, neither to x + add in x's dtype nor to PyTorch's kernel for
    channels_last. Its gradient needs no such care."""
    if add is None and layout_of(x) == torch.contiguous_format:
        return group_norm(x, groups, weight, bias, eps, add, scale, shift, act)
    h = from_first(x, add, groups)
    return group_norm(h, groups, weight, bias, eps, None, scale, shift, act).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """PyTorch's fused kernels, which never write out queries times keys; float64 on CUDA has none."""
    # Other strides, and on CUDA other head sizes, would be taken to the kernel that does.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    return _in_eights(q, k, v, scale) if q.shape[-1] % 8 else _cudnn_first(q, k, v, scale)


def _in_eights(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """With zeros up to a head size that is a multiple of eight."""
    size = q.shape[-1]
    q, k, v = (F.pad(t, (0, -size % 8)) for t in (q, k, v))
    return _cudnn_first(q, k, v, scale)[..., :size]


def _cudnn_first(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """On Hopper cuDNN is 1.7 to 2.3 times as fast as what PyTorch tries first (huggingface/transformers#48163)."""
    if not _is_hopper(q.device):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    # torch.nn.attention.sdpa_kernel takes 13 us a call for this, and enables what the user has disabled.
    before = torch._C._get_sdp_priority_order()
    torch._C._set_sdp_priority_order([_CUDNN, *(backend for backend in before if backend != _CUDNN)])
    try:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    finally:
        torch._C._set_sdp_priority_order(before)


_CUDNN: int = SDPBackend.CUDNN_ATTENTION.value


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) == (9, 0)


IMPLEMENTS = {"group_norm": Implementation(run_group_norm), "attention": Implementation(attention)}

"""attention: softmax(q k^T scale) v for the shapes diffusion models have."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, registry, torch_ops
from ..torch_library import register

MAX_HEAD_SIZE = 256


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """softmax(q k^T scale) v (Vaswani et al. 2017, eq. 1), no mask and no dropout.

    q: [B, H, N, D]; k, v: [B, H, M, D]; one dtype of float32, float64, float16, bfloat16, any strides, so that
    `[B, N, H, D].transpose(1, 2)` is taken without a copy. M >= 1, unless the result has no elements. scale:
    1 / sqrt(D) where not given.
    Returns [B, H, N, D] laid out like q. Softmax in float32 (float64 for float64). Differentiable in q, k, v. In
    bfloat16 results below 2^-126 may be rounded to 0.
    Raises TypeError or ValueError naming the argument.

    >>> q, text = torch.randn(2, 4096, 8, 40), torch.randn(2, 77, 8, 40)
    >>> attention(q.transpose(1, 2), text.transpose(1, 2), text.transpose(1, 2)).shape
    torch.Size([2, 8, 4096, 40])
    """
    checks.require_float("q", q)
    if q.ndim != 4:
        raise ValueError(f"q: expected [B, H, N, D], got shape {tuple(q.shape)}")
    batch, heads, _, size = q.shape
    checks.require_tensor("k", k)
    if k.ndim != 4 or (k.shape[2] == 0 and q.numel() > 0):
        raise ValueError(f"k: expected [B, H, M, D] with at least one key, got shape {tuple(k.shape)}")
    for name, tensor in (("k", k), ("v", v)):
        checks.require_shape(name, tensor, (batch, heads, k.shape[2], size))
        checks.require_dtype(name, tensor, q.dtype)
        checks.require_device(name, tensor, q)
    return _call(q, k, v, max(size, 1) ** -0.5 if scale is None else float(scale))


def _run(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    shape = (*q.shape[:3], k.shape[2], q.shape[3])
    run = registry.choose("attention", registry.CallSpec(q.device.type, q.dtype, shape))
    if q.numel() == 0:  # whose strides mean nothing
        return _meta(q, k, v, scale)
    out = run(q, k, v, scale)
    return out if out.stride() == q.stride() else _laid_out_like(q, out)


def _laid_out_like(q: Tensor, out: Tensor) -> Tensor:
    target = torch.empty_like(q)
    return out if out.stride() == target.stride() else target.copy_(out)


def _meta(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty_like(q)


_call = register("attention(Tensor q, Tensor k, Tensor v, float scale) -> Tensor", _run, _meta, torch_ops.attention)

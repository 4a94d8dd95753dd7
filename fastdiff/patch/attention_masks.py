"""Masks that leave keys out, as those of padded prompts do: attention to the other keys alone, which is less work."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import attention

ABSENT = -9000.0
"""An additive mask this low leaves its key out: exp(-9000) is 0, unless scores differ by thousands. Hosts add -10000,
rounded to the model's dtype, or infinity."""


def kept_keys(mask: Tensor, q: Tensor, k: Tensor) -> Tensor | None:
    """[B, M], the keys that each sample attends to, where the mask of q k^T, bool or additive, says no more than that.

    None for any other mask, where a sample has no key, and where reading the mask would stop a device or a compiler.
    """
    if mask.device.type != "cpu" or torch.compiler.is_compiling() or not 2 <= mask.ndim <= 4:
        return None
    mask = mask[(None,) * (4 - mask.ndim)]
    if mask.shape[2] != 1 and mask.stride(2) != 0:
        return None
    rows = mask[:, :, 0]
    kept = rows if rows.dtype == torch.bool else rows == 0
    if not (kept == kept[:, :1]).all() or (kept is not rows and not (kept | (rows < ABSENT)).all()):
        return None
    kept = kept[:, 0].expand(len(q), k.shape[2])
    return kept if kept.any(dim=1).all() else None


def attend_kept(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, scale: float | None) -> Tensor:
    """softmax(q k^T scale) v over the keys that are kept."""
    if kept.all():
        return attention(q, k, v, scale=scale)
    if (kept == kept[0]).all():
        return attention(q, *_chosen(k, v, kept[0]), scale=scale)
    out = torch.empty_like(q)
    for i, of_sample in enumerate(kept):
        one = slice(i, i + 1)
        out[one] = attention(q[one], *_chosen(k[one], v[one], of_sample), scale=scale)
    return out


def _chosen(k: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    places = kept.nonzero()[:, 0]
    return k[:, :, places], v[:, :, places]

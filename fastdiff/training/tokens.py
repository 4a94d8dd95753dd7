"""The loss of masked diffusion models: cross-entropy of the tokens that were masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class MaskedTokens(NamedTuple):
    """x: [B, N] tokens with masks. masked: [B, N] where they are. weight: [K] of the K masked ones in the loss."""

    x: Tensor
    masked: Tensor
    weight: Tensor


def mask_tokens(
    x0: Tensor, mask_id: int, *, shares: tuple[float, float] = (0.0, 1.0), generator: torch.Generator | None = None
) -> MaskedTokens:
    """In each row of x0 [B, N] k tokens are masked, k / N uniform in `shares` and stratified over the batch.

    The weight of a masked token is 1 / (k B): the loss is the mean over a row's masked tokens, and over rows. With
    shares from 0 to 1 its mean is a bound of the negative log-likelihood per token (Nie et al. 2025, eq. 14).
    generator: on any device.
    """
    least, most = shares
    if not 0 <= least <= most <= 1:
        raise ValueError(f"shares: expected 0 <= least <= most <= 1, got {shares}")
    rows, length = x0.shape
    device = None if generator is None else generator.device
    order = torch.randperm(rows, generator=generator, device=device)
    share = least + (most - least) * (order + torch.rand(rows, generator=generator, device=device)) / rows
    count = 1 + (share * length).long().clamp(max=length - 1)
    places = torch.rand(rows, length, generator=generator, device=device).argsort(1).argsort(1)
    masked, count = (places < count[:, None]).to(x0.device), count.to(x0.device)
    return MaskedTokens(x0.masked_fill(masked, mask_id), masked, (masked / count[:, None])[masked] / rows)


def masked_cross_entropy(logits: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum of -log p(token): logits [K, V], tokens [K] and weight [K] of the masked places."""
    return (cross_entropy(logits.float(), tokens, reduction="none") * weight).sum()


def masked_loss(
    model: Callable[..., Any],
    x0: Tensor,
    mask_id: int,
    *,
    shares: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
    **conditions: Any,
) -> Tensor:
    """Cross-entropy of the masked tokens of x0 [B, N] int64: the mean over a row's, and over rows (`mask_tokens`).

    model: called as model(x, **conditions), gives logits [B, N, V].
    """
    x, masked, weight = mask_tokens(x0, mask_id, shares=shares, generator=generator)
    return masked_cross_entropy(model(x, **conditions)[masked], x0[masked], weight)

"""The definition of right for token_stats, in plain torch: the law of every row in float64, from logits as they come.

The kernels are held to these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .philox import uniform_rows

TEMPERATURES = (2.0**-127, 1e30)  # the least and the largest there are: 0 and -inf stay what they are over them


def token_stats(
    logits: Tensor,  # [B, ..., V]
    logits_uncond: Tensor | None,  # [B, ..., V]
    current: Tensor | None,  # [B, ...] int64
    positions: Tensor | None,  # [B, ...] int64
    seeds: Tensor | None,  # [B] int64
    index: Tensor | None,  # [B] int64, 0 where None
    temperature: Tensor | None,  # [B] float64, 0 where None
    guidance: Tensor | None,  # [B] float64
    current_shift: Tensor | None,  # [B] float64
    top_k: int,  # 0 keeps all
    top_p: float,  # 1 keeps all
    exclude: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """Numbers [7, B, ...] and tokens [2, B, ...] int64 (see `TokenStats`), differentiable in the logits."""
    z = _final_logits(logits, logits_uncond, current, guidance, current_shift, exclude)
    largest, argmax = z.max(-1, keepdim=True)
    lawful = largest.isfinite()
    d = torch.where(lawful, z.double() - largest.double(), 0.0)  # ln p but for a constant, <= 0
    argmax = argmax.where(lawful, 0)
    weights = d.exp()
    total = weights.sum(-1, keepdim=True)
    entropy = _entropy(d, weights, total)
    second = d.topk(2, -1).values[..., 1:] if d.shape[-1] > 1 else torch.full_like(total, -math.inf)
    margin = -torch.expm1(second) / total

    log_drawn, drawn = _drawn_law(d, argmax, temperature, top_k, top_p)
    drawn_total = drawn.sum(-1, keepdim=True)
    sample = argmax if seeds is None else _draw(drawn, seeds, index, positions)
    sample = sample.where(lawful, 0)
    log_prob = d.gather(-1, sample) - total.log()
    drawn_log_prob = log_drawn.gather(-1, sample) - drawn_total.log()
    drawn_entropy = _entropy(log_drawn, drawn, drawn_total)
    current_prob = torch.zeros_like(total)
    if current is not None:
        known, there = _in_vocabulary(current, d.shape[-1])
        current_prob = torch.where(there, weights.gather(-1, known) / total, 0.0)
    numbers = (log_prob, 1 / total, margin, entropy, current_prob, drawn_log_prob, drawn_entropy)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    lawless = torch.full((), math.nan, dtype=torch.float64, device=d.device)
    found = torch.stack([torch.where(lawful, n, lawless).squeeze(-1) for n in numbers])
    return found.to(dtype), torch.stack((argmax, sample)).squeeze(-1)


def _final_logits(
    logits: Tensor,
    uncond: Tensor | None,
    current: Tensor | None,
    guidance: Tensor | None,
    shift: Tensor | None,
    exclude: Sequence[int] | None,
) -> Tensor:
    """z [B, ..., V] in the compute dtype."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    z = logits.to(dtype)
    if uncond is not None:
        assert guidance is not None  # as the public op checks
        u = uncond.to(dtype)
        allowed = (z != -math.inf) & (u != -math.inf)
        z = torch.where(allowed, u + _per_sample(guidance, z).to(dtype) * (z - u), -math.inf)
    if shift is not None:
        assert current is not None
        known, there = _in_vocabulary(current, z.shape[-1])
        added = torch.where(there, _per_sample(shift, z).to(dtype), 0.0)
        z = z.scatter(-1, known, z.gather(-1, known) + added)
    for token in exclude or ():
        z = z.index_fill(-1, torch.full((1,), token, device=z.device), -math.inf)
    return z


def _in_vocabulary(tokens: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Tokens to gather by, [B, ..., 1], and whether they are in [0, size)."""
    return tokens.clamp(0, size - 1)[..., None], ((tokens >= 0) & (tokens < size))[..., None]


def _per_sample(values: Tensor, z: Tensor) -> Tensor:
    return values.view(-1, *[1] * (z.ndim - 1))


def _entropy(logs: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """-sum w/total ln(w/total), where w = exp(logs); what has no weight counts as nothing."""
    return total.log() - (weights * logs.masked_fill(weights == 0, 0.0)).sum(-1, keepdim=True) / total


def _drawn_law(
    d: Tensor, argmax: Tensor, temperature: Tensor | None, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """ln q and q, each but for a constant."""
    greedy = torch.zeros_like(d).scatter(-1, argmax, 1.0)
    if temperature is None:
        return torch.zeros_like(d), greedy
    t = _per_sample(temperature, d)
    logs = d * (1 / t.clamp(*TEMPERATURES))
    weights = logs.exp()
    if top_k:
        least = d.topk(min(top_k, d.shape[-1]), -1).values[..., -1:]
        weights = weights.masked_fill(d < least, 0.0)
    if top_p < 1:
        weights = weights.masked_fill(~_nucleus(weights, d, top_p), 0.0)
    return logs.where(t > 0, 0.0), weights.where(t > 0, greedy)


def _nucleus(weights: Tensor, d: Tensor, top_p: float) -> Tensor:
    """Whether the mass of what comes before, by logit and then by index, is below top_p of all."""
    order = torch.sort(d, dim=-1, descending=True, stable=True).indices
    ordered = weights.gather(-1, order)
    before = ordered.cumsum(-1) - ordered
    keep = before < top_p * ordered.sum(-1, keepdim=True)
    return torch.zeros_like(keep).scatter(-1, order, keep)


def _draw(weights: Tensor, seeds: Tensor, index: Tensor | None, positions: Tensor | None) -> Tensor:
    """[B, ..., 1] the first token at which the sum of the weights exceeds the row's random number of the whole."""
    rows = weights.shape[:-1]
    if positions is None:
        count = rows[1:].numel()
        positions = torch.arange(count, device=weights.device).view(1, *rows[1:]).expand(rows)
    u = uniform_rows(seeds, index, positions)[..., None]
    sums = weights.cumsum(-1)
    return (sums <= u * sums[..., -1:]).sum(-1, keepdim=True).clamp(max=weights.shape[-1] - 1)


def run_token_stats(*arguments: Any) -> None:
    """`token_stats` into its two results, the last arguments, contiguous: the contract of every backend."""
    *given, numbers, tokens = arguments
    for out, found in zip((numbers, tokens), token_stats(*given), strict=True):
        out.copy_(found)

"""The law of one token of a uniform process given all the others, from one reading of the plain denoiser's logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import token_stats
from ..sampling.token_draws import Draws


class Conditional(NamedTuple):
    """Of p_s(x^l | the others), [B, L] each."""

    sample: Tensor  # int64, a draw
    log_prob: Tensor  # ln of its probability, float64
    current: Tensor  # ln of the current token's
    other: Tensor  # ln of the largest of the other tokens'


def leave_one_out(logits: Tensor, sample: Tensor, alpha: Tensor, draws: Draws) -> Conditional:
    """Draws from alpha p_loo + (1 - alpha) / V at each position, arXiv:2605.22765.

    logits: [B, L, V], of which p_loo is the softmax with ln(1 + V alpha / (1 - alpha)) less for the current token
    (eq. 13). sample: [B, L] int64. alpha: in (0, 1), float64 of no dimension.

    The op leaves the current token out; its share is added here, by its own logit. So the numbers are right to rounding
    also where that share is all but one.
    """
    vocabulary = logits.shape[-1]
    others = token_stats(logits, sample, current_shift=-math.inf, temperature=1.0, **draws.of_rows(len(sample)))
    tokens = torch.stack([sample, others.sample, others.argmax], dim=-1)
    current, drawn, largest = logits.gather(-1, tokens).double().unbind(-1)
    current = current - torch.log1p(vocabulary * alpha / (1 - alpha))
    total_others = drawn - others.log_prob.double()  # logsumexp without the current token
    total = torch.logaddexp(total_others, current)

    share = (current - total).exp()
    u = draws.uniform(sample.shape)
    chosen = torch.where(u < alpha * share, sample, others.sample)
    chosen = torch.where(u < alpha, chosen, draws.tokens(vocabulary, sample.shape))
    at = logits.gather(-1, chosen[..., None])[..., 0].double()
    floor = torch.log1p(-alpha) - math.log(vocabulary)

    def mixed(z: Tensor) -> Tensor:
        return torch.logaddexp(torch.log(alpha) + z - total, floor)

    return Conditional(chosen, mixed(torch.where(chosen == sample, current, at)), mixed(current), mixed(largest))

"""Which tokens jump in a step, and where: to x_1, or by the divergence-free part to a token of the source."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...sampling.token_draws import Draws


class Source(NamedTuple):
    """p_0 [V] in float64 with its sums up to each token, that one too."""

    p: Tensor
    sums: Tensor

    @classmethod
    def of(cls, p: Tensor) -> Source:
        p = p.double() / p.double().sum()
        return cls(p, p.cumsum(0))

    def draw_other(self, x: Tensor, u: Tensor) -> Tensor:
        """A token of p_0 that is not x, by inversion of u: x's part of [0, 1] is left out. [B, ...] all."""
        own = self.p[x]
        before = self.sums[x] - own
        v = u * (self.sums[-1] - own)
        v = torch.where(v >= before, v + own, v)
        return torch.searchsorted(self.sums, v, right=True).clamp(max=len(self.p) - 1)


def jump(
    x: Tensor, clean: Tensor, at: Any, h: Tensor, div_free: float | Tensor, source: Source | None, draws: Draws
) -> Tensor:
    """x after a step of h [1]. clean: x_1, like x. at: alpha_t and d_alpha_t at the step's begin, k and k' [1]."""
    k, speed = at.alpha_t.double(), at.d_alpha_t.double()
    differs = (clean != x).double()
    free = div_free if isinstance(div_free, Tensor) else torch.full((), div_free, device=x.device)
    free = free.double().clamp(min=0)
    # The rates times (1 - k) scale / k'. The source's has 1 / k, which is infinite at the start.
    scale = torch.where(free > 0, k, 1.0)
    to_clean = (1 + free) * scale * differs
    to_source = free * (1 - k) * (1 - source.p[x]) if source else torch.zeros_like(to_clean)
    rate = ((to_clean + to_source) * speed / ((1 - k) * scale)).nan_to_num(nan=0.0, posinf=torch.inf)
    jumps = draws.uniform(x.shape) < -torch.expm1(-h * rate)
    target = clean
    if source:
        u = draws.uniform(x.shape) * (to_clean + to_source)
        inside = ((u - to_clean) / to_source).clamp(0, 1)  # uniform, given that it is the source's turn
        target = torch.where(u < to_clean, clean, source.draw_other(x, inside))
    return torch.where(jumps, target, x)

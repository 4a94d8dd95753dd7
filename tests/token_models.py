"""A deterministic model of tokens, and a plan of every rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastdiff import tokens as ft

SIZE, MASK = 11, 11
PLANS = {
    "random": ft.plan("random", 3),
    "ancestral": ft.plan("ancestral", 4, sizes="cosine"),
    "first_hitting": ft.plan("first_hitting"),
    "confidence": ft.plan(ft.Confidence(1.0), 3),
    "margin": ft.plan("margin", sizes=[1, 2, 4]),
    "entropy": ft.plan("entropy", 3),
    "threshold": ft.plan(ft.Threshold(0.3)),
    "factor": ft.plan(ft.Factor(2.0), 4),
    "entropy_bound": ft.plan(ft.EntropyBound(2.0)),
    "remdm": ft.plan(ft.ReMDM(0.3, "confidence"), 5),
    "editing": ft.plan(ft.Editing(0.3, 0.4)),
    "trapezoidal": ft.plan("trapezoidal", 3),
    "uniform": ft.plan(ft.Uniform(1, 2), 3),
}
EVERY = pytest.mark.parametrize("name", PLANS)


def model(tokens: Tensor, scale: float | Tensor = 2.0) -> Tensor:
    """Logits of every token from all tokens, by elementwise operations: the same in any batch."""
    places, sizes = (torch.arange(1, n + 1, device=tokens.device) for n in (tokens.shape[1], SIZE))
    seen = torch.sin(tokens * 1.3 + places * 0.7)
    around = seen.sum(1, keepdim=True) - 0.5 * seen + 0.1 * places
    logits = 2 * torch.sin(around[..., None] * sizes + 0.3 * sizes)
    return (scale.view(-1, 1, 1) if isinstance(scale, Tensor) else scale) * logits.double()


def draw(plan: ft.Plan, tokens: Tensor, **options: object) -> Tensor:
    return ft.sample(options.pop("model", model), plan, tokens, MASK, vocabulary=SIZE, **options)


def some_given(batch: int = 3, length: int = 12) -> Tensor:
    """A prompt, and tokens here and there behind it."""
    tokens = torch.randint(SIZE, (batch, length))
    open = torch.rand(batch, length) < 0.7
    open[:, :2], open[:, -1] = False, True
    return tokens.masked_fill(open, MASK)

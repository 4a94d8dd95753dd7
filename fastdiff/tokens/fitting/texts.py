"""Texts that a fit is taught: given whole, or with masks that the model fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops import checks
from ..rules.ranked import RandomOrder
from ..sampling import Request
from ..token_plan import Plan
from .teacher import MOST_ORDERS, Teacher

# Draws at temperature 1 of the whole law, which is what plans are compared by.
PLAIN = Request(None, 1.0, None, None, None, None, "batch", (), None, None, None, None, False, 0, True, None)


def knot_sizes(length: int, count: int) -> tuple[int, ...]:
    """At most `count` steps over the tokens, few first, where the curve is steep; the last one is of one token."""
    if count >= length:
        return (1,) * length
    ends = np.unique(np.round((length - 1) * np.linspace(0, 1, count) ** 2).astype(int))
    return tuple(int(size) for size in np.diff((*ends, length)))


def make_teacher(
    model: Callable, texts: Tensor, mask_id: int, calls: int, batch: int, block: int | None, open: Tensor | None,
    request: Request, seed: int, kwargs: dict[str, Any],
) -> Teacher:  # fmt: skip
    """Check the arguments, and fill the masks of texts."""
    checks.require_tensor("texts", texts)
    checks.require_dtype("texts", texts, torch.int64)
    if texts.ndim < 2 or not texts.numel():
        raise ValueError(f"texts: expected tokens [N, ...], got the shape {tuple(texts.shape)}")
    if int(texts.min()) < 0:
        raise ValueError(f"texts: expected tokens >= 0, got {int(texts.min())}")
    for name, value in (("calls", calls), ("batch", batch)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**30:
        raise ValueError(f"seed: expected a whole number in [0, 2^30), got {seed!r}")
    masked = texts == mask_id
    if open is None:
        open = masked if bool(masked.any()) else torch.ones_like(masked)
    if block is not None and (not isinstance(block, int) or isinstance(block, bool) or block < 1):
        raise ValueError(f"block: expected None or a whole number >= 1, got {block!r}")
    checks.require_shape("open", open, tuple(texts.shape))
    checks.require_dtype("open", open, torch.bool)
    if bool((masked & ~open).any()) or not bool(open.flatten(1).any(-1).all()):
        raise ValueError("open: expected every text's masks to be generated, and at least one token of each")
    teacher = Teacher(model, texts, open, mask_id, request, kwargs, batch, seed << 20)
    return teacher._replace(texts=_filled(teacher, calls, block)) if bool(masked.any()) else teacher


def _filled(teacher: Teacher, calls: int, block: int | None) -> Tensor:
    """The texts with the model's tokens in place of their masks, in as many steps as the curve has."""
    length = length_of(teacher.open, block)
    plan = Plan(RandomOrder(), knot_sizes(length, max(calls, 2)), block)
    parts = []
    for some in teacher.batches():
        run = some.begin(plan.rule, plan, some.seeds(MOST_ORDERS))
        for _ in run.steps():
            pass
        parts.append(run.tokens.view(some.texts.shape))
    return torch.cat(parts)


def length_of(open: Tensor, block: int | None) -> int:
    """How many tokens a plan makes: of a text, or of a block."""
    most = int(open.flatten(1).sum(-1).amax())
    return most if block is None else min(most, block)

"""Conditions that are left out at random, so that one model learns to go without them (Ho & Salimans 2022, alg. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def drop_conditions(
    conditions: Mapping[str, Any],
    probability: float,
    nothing: Mapping[str, Tensor | float],
    *,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """The conditions, of each sample with this probability replaced by what means "none" to the model.

    conditions: keyword arguments of the model, [B, ...] each; dtypes are kept. nothing: for each keyword that is left
    out, a number or a tensor without the batch or [1, ...]: the label of no class, zeros, the embedding of an empty
    text. Keywords that it does not name are kept. A sample loses all of those or none; call again for another draw.
    generator: on any device. Raises KeyError for a keyword that is no condition, TypeError for one that is no tensor,
    and ValueError for a probability outside of [0, 1] or sizes that differ.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: expected a number in [0, 1], got {probability}")
    for name in nothing:
        if name not in conditions:
            raise KeyError(f"nothing: {name} is no condition; those are {', '.join(conditions)}")
        if not isinstance(conditions[name], Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor [B, ...], got {type(conditions[name]).__name__}")
    sizes = {len(conditions[name]) for name in nothing}
    if len(sizes) > 1:
        raise ValueError(f"conditions: expected one batch size, got {sorted(sizes)}")
    if not sizes:
        return dict(conditions)
    device = None if generator is None else generator.device
    dropped = torch.rand(sizes.pop(), generator=generator, device=device) < probability
    return {**conditions, **{name: _replaced(conditions[name], dropped, given) for name, given in nothing.items()}}


def _replaced(value: Tensor, dropped: Tensor, nothing: Tensor | float) -> Tensor:
    column = dropped.to(value.device).reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(column, torch.as_tensor(nothing).to(value), value)

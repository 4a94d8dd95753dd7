"""What a backend is asked for, and what it offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class CallSpec(NamedTuple):
    """What the choice of a backend depends on.

    device: the type, such as "cuda". shape: x's for solver_step and group_norm, a tensor's for gram, (B, H, N, keys, D)
        for attention.
    """

    device: str
    dtype: torch.dtype
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Implementation:
    """One backend's version of an op. `refuse` says in words why it cannot serve a call, or None if it can."""

    run: Callable[..., Any]
    refuse: Callable[[CallSpec], str | None] = lambda case: None

"""A request in a `StepBatch`: what is asked for, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...plans.plan import Plan


class Asked(NamedTuple):
    """What a request brings along.

    start: [n, ...] the first x. noise: [n, ...], as it was given. seeds: [n]. scales: [rows, n] of guidance, NaN where
    a row makes no unconditional call; None without guidance. conditions, uncond: tensors [n, ...] by name, of the
    conditional and the unconditional evaluations. clamp, threshold (ratio, limit): bounds on x0.
    """

    start: Tensor
    noise: Tensor
    seeds: np.ndarray
    scales: np.ndarray | None
    conditions: Mapping[str, Tensor]
    uncond: Mapping[str, Tensor]
    image: Tensor | None
    mask: Tensor | None
    clamp: float | None
    threshold: tuple[float, float] | None


@dataclass(eq=False)
class Ticket:
    """A request in a `fastdiff.StepBatch`, as `add` returns it.

    plan: its plan. size: the number of its samples. state: "waiting", "running", "finished" or "cancelled". i: rows
    that have been run, of plan.nfe. result: [size, ...] when it is finished, None before.
    """

    plan: Plan
    size: int
    state: str = "waiting"
    i: int = 0
    result: Tensor | None = field(default=None, repr=False)
    _asked: Asked | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        """Whether it is finished or cancelled."""
        return self.state in ("finished", "cancelled")

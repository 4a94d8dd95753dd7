"""A request on its way through the worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import fastdiff as fd


@dataclass(frozen=True)
class Event:
    """What a client is told. kind: "step" (x is the predicted samples), "done" (x is the samples) or "error"."""

    kind: str
    i: int = 0
    x: Tensor | None = None
    status: int = 200
    detail: str = ""

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.kind != "step"


@dataclass(eq=False)
class Job:
    """A plan, the options of `StepBatch.add`, and `emit`, which is called with every `Event` from the worker's thread.

    previews: every so many steps; 0 for none. deadline: on time.monotonic's clock. gone: the client is.
    """

    plan: fd.Plan
    options: dict[str, Any]
    emit: Callable[[Event], None]
    previews: int = 0
    timeout: float = 60.0
    began: float = field(default_factory=time.monotonic)
    ticket: fd.Ticket | None = None
    gone: bool = False

    @property
    def overdue(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() > self.began + self.timeout

"""Rows of results, and how a contestant that fails becomes a row that says so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from .timing import Clock

Calls = Sequence[Callable[[], object]]


@dataclass
class Row:
    """One contestant at one case. Times in microseconds; traffic and work are what the case needs at the least."""

    section: str
    case: str
    name: str
    best: float = math.nan
    median: float = math.nan
    of_copy: float = math.nan
    of_matmul: float = math.nan
    host: float = math.nan
    note: str = ""


@dataclass
class Session:
    """The clock, the ceilings, the deadline and the rows so far."""

    clock: Clock
    deadline: float
    quick: bool
    ceilings: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def device(self) -> str:
        return self.clock.device

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def measure(
        self, section: str, case: str, name: str, make: Callable[[], Calls], *, bytes: int = 0, flops: int = 0
    ) -> Row:
        """Time what `make` returns, or note why that could not be done."""
        row = Row(section, case, name)
        self.rows.append(row)
        if self.seconds_left < 0:
            row.note = "out of time"
            return row
        try:
            times = self.clock.time(make())
        except Exception as error:  # a kernel that fails is a row that says so
            row.note = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}" if str(error) else repr(error)
            )
            return row
        row.best, row.median = times.best * 1e6, times.median * 1e6
        if bytes:
            row.of_copy = bytes / times.best / self.ceilings["copy"]
        if flops:
            row.of_matmul = flops / times.best / self.ceilings["matmul"]
        return row

    def as_json(self) -> list[dict]:
        return [{k: None if v != v else v for k, v in asdict(row).items()} for row in self.rows]


def require_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """A wrong kernel is not timed. max |error| / max |expected|."""
    error = ((got.double() - expected).abs().max() / expected.abs().max()).item()
    if not error <= tolerance:
        raise ArithmeticError(f"wrong by {error:.1e}")


TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

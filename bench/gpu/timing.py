"""Times under equal conditions: inputs rotated, the second-level cache flushed, the median of many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Times:
    """Seconds of a call."""

    best: float
    median: float


class Clock:
    """Times calls on one device. seconds: how long a measurement may take, warm-up aside."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if device == "cuda" else None

    def time(self, calls: Sequence[Callable[[], object]]) -> Times:
        """Times of one call on the device; `calls` do the same on different inputs and take turns."""
        for call in calls:
            call()
        self.wait()
        began = time.perf_counter()
        calls[0]()
        self.wait()
        once = max(time.perf_counter() - began, 1e-6) + (1e-4 if self._flush is not None else 0)
        count = max(3, min(200, int(self.seconds / once)))
        turns = [calls[k % len(calls)] for k in range(count)]
        return _summary(self._on_device(turns) if self.device == "cuda" else _on_host(turns))

    def host(self, call: Callable[[], object], count: int = 50) -> float:
        """Median seconds that the host spends in a call, with the device idle before it and not waited for after."""
        call()
        found = []
        for _ in range(count):
            self.wait()
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
        self.wait()
        return _summary(found).median

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _on_device(self, turns: Sequence[Callable[[], object]]) -> list[float]:
        events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in turns]
        for call, (begin, end) in zip(turns, events, strict=True):
            self._flush.zero_()  # also keeps the device busy while the host launches the call
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e-3 for begin, end in events]


def _on_host(turns: Sequence[Callable[[], object]]) -> list[float]:
    found = []
    for call in turns:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def _summary(found: Sequence[float]) -> Times:
    ordered = sorted(found)
    return Times(ordered[0], ordered[len(ordered) // 2])

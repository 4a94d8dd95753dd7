"""The first call of all that is compiled on the fly, in many processes at once: what is timed later is in the cache."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from .loop import loops
from .ops import attentions, compiled_ops, grams, group_norms, keys_and_head_sizes
from .process import Cases, Job
from .session import Calls, Session
from .steps import solver_steps
from .timing import Clock

COMPILED = {"cuda": ("fastdiff triton", "compiled", "fastdiff, accelerated model"), "cpu": ("fastdiff cpu",)}
SHARDS = 12
SILENCE = 120  # seconds for one


@dataclass(frozen=True)
class FirstCalls(Session):
    """Makes a shard of the calls that others would time."""

    shard: int = 0
    shards: int = 1

    def measure(
        self, section: str, case: str, name: str, make: Callable[[], Calls], *, host: int = 0, **facts: object
    ) -> None:
        """Record the seconds until the calls are ready; those who make them try them."""

        def find() -> dict:
            began = time.perf_counter()
            make()
            self.clock.wait()
            return {"first": time.perf_counter() - began}

        if name in COMPILED[self.device] and zlib.crc32(case.encode()) % self.shards == self.shard:
            self.record("first calls", f"{section}: {case}", name, find)


def first_calls(device: str, quick: bool) -> list[Job]:
    """A job for each shard."""
    shards = SHARDS if device == "cuda" else 1
    return [Job(f"first calls, {k + 1} of {shards}", _run, (device, quick, k, shards), SILENCE) for k in range(shards)]


def _run(cases: Cases, device: str, quick: bool, shard: int, shards: int) -> None:
    session = FirstCalls(cases, Clock(device, 0.0), quick, shard, shards)
    for stage in (solver_steps, grams, group_norms, attentions, loops, keys_and_head_sizes, compiled_ops):
        stage(session)

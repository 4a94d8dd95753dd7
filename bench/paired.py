"""Two contestants timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def paired(
    benchmark,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    fresh: Callable[[], None] = lambda: None,
) -> None:
    """Time ours, and theirs before each round of it, so that both meet the same machine; theirs is extra_info."""
    seconds: list[float] = []

    def other() -> None:
        fresh()
        began = time.perf_counter()
        theirs()
        seconds.append(time.perf_counter() - began)

    benchmark.pedantic(ours, setup=other, rounds=rounds)
    benchmark.extra_info["theirs"] = {"min": min(seconds), "median": statistics.median(seconds)}

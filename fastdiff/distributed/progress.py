"""How far all processes of a job are, by what they have written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LOOK, WAIT = 1.0, 0.2  # seconds between looks while drawing, and while waiting for others
RARELY = 50  # times as long as a look takes are at least between two: a journal may have a million entries


class Progress:
    """A bar over all samples. There is no message between processes: the shards that are whole are counted.

    journal: the numbers of the shards that are whole. size: how many samples a shard has, by its number.
    total: samples of all. shown: whether there is a bar at all.
    """

    def __init__(self, journal: Callable[[], list[int]], size: Callable[[int], int], total: int, shown: bool) -> None:
        self.journal, self.size = journal, size
        self.seen: dict[int, int] = {}
        self.ahead = 0  # samples of this process that are in no shard yet
        self._next = 0.0  # when it looks again
        self.bar: Any = None
        if shown:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, unit="sample", smoothing=0.05)
            self.look()
            self.bar.initial = self.bar.n  # what was there does not count as fast work

    def drawn(self, count: int) -> None:
        """This process has drawn some more."""
        self.ahead += count
        if self.bar is not None and time.monotonic() >= self._next:
            self.look()

    def written(self) -> None:
        """This process has written what it had drawn."""
        self.ahead = 0

    def look(self) -> int:
        """How many shards are whole."""
        began = time.monotonic()
        for number in self.journal():
            if number not in self.seen:
                self.seen[number] = self.size(number)
        took = time.monotonic() - began
        self._next = began + took + max(LOOK, RARELY * took)
        if self.bar is not None:
            self.bar.n = max(self.bar.n, sum(self.seen.values()) + self.ahead)
            self.bar.refresh()
        return len(self.seen)

    def wait_for(self, count: int, patience: float) -> None:
        """Until so many shards are whole. Raises RuntimeError where none has come for so many seconds."""
        found, since = self.look(), time.monotonic()
        while found < count:
            time.sleep(WAIT)
            before, found = found, self.look()
            if found > before:
                since = time.monotonic()
            if time.monotonic() - since > patience:
                raise RuntimeError(
                    f"{count - found} of {count} shards are missing, and no process has written one for"
                    f" {patience:.0f} s; start the job again, which draws those alone"
                )


@contextmanager
def closing(progress: Progress) -> Iterator[Progress]:
    """The bar is left behind where it ended."""
    try:
        yield progress
    finally:
        if progress.bar is not None:
            progress.bar.close()

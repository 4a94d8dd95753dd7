"""The order in which requests are served: of the highest priority, the one that came first."""

from __future__ import annotations

import heapq
import itertools

from .ticket import Ticket


class Queue:
    """Waiting tickets. The head waits until it fits, and nobody overtakes it: large requests are not starved."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._arrival = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, ticket: Ticket, priority: float) -> None:
        """Add a ticket."""
        heapq.heappush(self._heap, (-priority, next(self._arrival), ticket))

    def head(self) -> Ticket | None:
        """The ticket that is served next."""
        return self._heap[0][2] if self._heap else None

    def pop(self) -> Ticket:
        """Take the head."""
        return heapq.heappop(self._heap)[2]

    def remove(self, ticket: Ticket) -> bool:
        """Take a ticket from anywhere in the queue; whether it was there."""
        kept = [entry for entry in self._heap if entry[2] is not ticket]
        found = len(kept) < len(self._heap)
        if found:
            self._heap = kept
            heapq.heapify(kept)
        return found

"""What a fit may spend: seconds, and evaluations of the model."""

from __future__ import annotations

import math
from time import monotonic

from ..sampling.ranks import Ranks


def clock() -> float:
    """Seconds, of which only differences mean anything: the time that a fit goes by."""
    return monotonic()


class Exhausted(Exception):
    """The budget is spent."""


class Budget:
    """Counts seconds and evaluations: one model call on one sample is one, two under guidance. None sets no limit.

    A cheap call is as much of one as it costs.
    """

    def __init__(self, seconds: float | None, evaluations: int | None, ranks: Ranks | None = None) -> None:
        self.limits, self.began, self.evaluations = (seconds, evaluations), clock(), 0.0
        self.ranks = ranks or Ranks()
        self._lap, self._pace = (0.0, 0.0), 0.0

    @property
    def seconds(self) -> float:
        """Since the fit began."""
        return clock() - self.began

    @property
    def share(self) -> float:
        """How much of it is spent: 1 and more where none is left; 0 where there is no limit.

        Processes that share the work agree on the time, and so have to ask together.
        """
        seconds = 0.0 if self.limits[0] is None else self.ranks.largest(self.seconds)
        pairs = zip((seconds, self.evaluations), self.limits, strict=True)
        return max((spent / limit if limit else 1.0 for spent, limit in pairs if limit is not None), default=0.0)

    @property
    def left(self) -> float:
        """Evaluations for which there is room, at the pace so far; infinite where there is no limit."""
        return self.evaluations * (1 / share - 1) if (share := self.share) else math.inf

    def share_after(self, evaluations: int) -> float:
        """How much will be spent after so many more evaluations, at the pace so far."""
        return self.share * (1 + evaluations / max(1, self.evaluations))

    def lap(self) -> float:
        """Seconds for each evaluation since the last call; what that call said where there were none."""
        seconds, evaluations = self.seconds - self._lap[0], self.evaluations - self._lap[1]
        self._lap = self.seconds, self.evaluations
        if evaluations:
            self._pace = seconds / evaluations
        return self._pace

    def check(self) -> None:
        """Raises Exhausted where none is left."""
        if self.share >= 1:
            raise Exhausted

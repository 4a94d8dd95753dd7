"""What a timing job works with; a contestant that fails becomes a record that says so."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .process import Cases, device_is_lost
from .timing import Clock

OURS = ("fastdiff", "torch")  # what others refuse, or lack, is a note and no failure

Calls = Sequence[Callable[[], object]]


@dataclass(frozen=True)
class Session:
    """The cases of a job, the clock, and whether to take one small case of everything only."""

    cases: Cases
    clock: Clock
    quick: bool

    @property
    def device(self) -> str:
        return self.clock.device

    def measure(
        self, section: str, case: str, name: str, make: Callable[[], Calls], *, host: int = 0, **facts: object
    ) -> None:
        """Record the seconds of a call of those that `make` returns. host: and the host's part, the median of so many.

        facts: what else the report reads; `bytes` and `flops` are what the case needs at the least.
        """

        def find() -> dict:
            calls = make()
            times = self.clock.time(calls)
            found = {"best": times.best, "median": times.median}
            return found | ({"host": self.clock.host(calls[0], host)} if host else {})

        self.record(section, case, name, find, **facts)

    def record(self, section: str, case: str, name: str, find: Callable[[], dict], **facts: object) -> None:
        """Record what `find` returns, or why it could not, unless that is there."""
        key = f"{case} | {name}"
        if self.cases.is_done(section, key):
            return
        record = {"case": case, "name": name, **facts}
        self.cases.begin(section, key, record)
        try:
            record |= find()
        except Exception as error:  # a kernel that fails is a record that says so
            record |= failure(error) if name.startswith(OURS) else {"note": note(error)}
        self.cases.end(section, key, record)
        if "note" in record and device_is_lost():
            os._exit(1)  # the next process goes on behind this case


def failure(error: Exception) -> dict:
    """note: in a line. kind: what failures at one place share. text: in full."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return {
        "note": note(error),
        "kind": f"{type(error).__name__} at {os.path.basename(place.filename)}:{place.lineno}",
        "text": "".join(traceback.format_exception(error)),
    }


def note(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:120]}"

"""Everything found so far, in one JSON file that a later run of the same source on the same machine goes on from."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from fastdiff.files import write

from .process import Key

EVERY = 2.0  # seconds between two writes while a stage runs


class Results:
    """sections: name -> case -> what came of it. stages: name -> how it ended and the seconds it took.

    Of failures of one kind the first keeps its text.
    """

    def __init__(self, path: Path, identity: dict, *, again: bool = False) -> None:
        found = json.loads(path.read_text()) if path.exists() and not again else {}
        self.path, self.identity = path, identity
        self.stages: dict[str, dict] = found.get("stages", {})
        self.sections: dict[str, dict[str, dict]] = found.get("sections", {})
        self._kinds = {record["kind"] for record in self.records() if "text" in record}
        self._lock, self._written = threading.Lock(), 0.0

    def records(self) -> list[dict]:
        return [record for cases in self.sections.values() for record in cases.values()]

    def done(self) -> frozenset[Key]:
        with self._lock:
            return frozenset((section, case) for section, cases in self.sections.items() for case in cases)

    def add(self, key: Key, record: dict) -> None:
        section, case = key
        with self._lock:
            if "text" in record and record["kind"] in self._kinds:
                record = {name: value for name, value in record.items() if name != "text"}
            elif "text" in record:
                self._kinds.add(record["kind"])
            self.sections.setdefault(section, {})[case] = record
            if time.monotonic() - self._written > EVERY:
                self._write()

    def end_stage(self, name: str, state: str, seconds: float) -> None:
        with self._lock:
            seconds += self.stages.get(name, {}).get("seconds", 0.0)
            self.stages[name] = {"state": state, "seconds": round(seconds, 1)}
            self._write()

    def _write(self) -> None:
        data = {"identity": self.identity, "stages": self.stages, "sections": self.sections}
        text = json.dumps(data, indent=1) + "\n"
        write(self.path, lambda partial: partial.write_text(text))
        self._written = time.monotonic()

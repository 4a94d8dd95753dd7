"""Measured rows in a JSON file, written after every measurement."""

from __future__ import annotations

import json
from pathlib import Path

from fastdiff.files import write


class Store:
    """Rows {"problem", "kind", "solver", "nfe", ...}; one key may have several rows, or one that says there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict] = json.loads(path.read_text())["rows"] if path.exists() else []

    def has(self, key: dict) -> bool:
        return any(key.items() <= row.items() for row in self.rows)

    def add(self, key: dict, found: list[dict]) -> None:
        """Write the rows found for a key; without any, that there are none."""
        # Another process may have written since: its rows are kept.
        rows = json.loads(self.path.read_text())["rows"] if self.path.exists() else []
        self.rows = rows + [{**key, **row} for row in found or [{"absent": True}]]
        text = json.dumps({"rows": self.rows}, indent=None, separators=(",", ":")).replace("},{", "},\n{")
        write(self.path, lambda partial: partial.write_text(text))

    def select(self, **wanted: object) -> list[dict]:
        """The rows with these values, without those that say there is none."""
        return [row for row in self.rows if wanted.items() <= row.items() and "absent" not in row]

    def best(self, problem: str, kind: str, nfe: int, size: str) -> dict | None:
        """The row of the least `size`."""
        return min(self.select(problem=problem, kind=kind, nfe=nfe), key=lambda row: row[size], default=None)

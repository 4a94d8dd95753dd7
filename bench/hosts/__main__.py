"""`python -m bench.hosts NAME ...`: measure these hosts, all installed ones without a name, and write the table.

Each module beside this one that has a function `rows` is a host. Its rows replace those of the same module in
bench/results/hosts.json; hosts.md is written from all rows that are there, anew without a measurement by the name "-".
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from fastdiff.files import write

from ..report import RESULTS
from .row import Row
from .summary import rendered

STORED = RESULTS / "hosts.json"
OTHERS = ("__init__", "__main__", "row", "summary")


def names() -> list[str]:
    """The hosts' modules."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in OTHERS)


def measured(name: str) -> list[Row] | None:
    """The rows of a host; None where it is not installed."""
    try:
        return list(importlib.import_module(f".{name}", __package__).rows())
    except ModuleNotFoundError as missing:
        print(f"{name}: {missing}", file=sys.stderr)
        return None


def by_lines(stored: dict[str, list[dict]]) -> str:
    """JSON with a line for each row."""
    hosts = (f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in sorted(stored.items()))
    return "{\n" + ",\n".join(hosts) + "\n}\n"


def main(asked: list[str]) -> None:
    stored: dict[str, list[dict]] = json.loads(STORED.read_text()) if STORED.exists() else {}
    for name in [name for name in asked if name != "-"] if asked else names():
        rows = measured(name)
        if rows is not None:
            stored[name] = [asdict(row) for row in rows]
    write(STORED, lambda partial: partial.write_text(by_lines(stored)))
    every = [Row(**row) for rows in stored.values() for row in rows]
    write(RESULTS / "hosts.md", lambda partial: partial.write_text(rendered(every)))


if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m bench.hosts NAME ...`: measure these hosts, all installed ones without a name, and write the table.

Each module beside this one that has a function `rows` is a host. Its rows replace those of the same module in
bench/results/hosts.json; hosts.md is written from all rows that are there.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from fastdiff.files import write

from .. import markdown
from ..report import RESULTS
from .row import Row

STORED = RESULTS / "hosts.json"
OTHERS = ("__init__", "__main__", "row")
HEAD = ("host", "use", "evaluations", "its sampler", "error", "fastdiff", "error", "times less", "parity")


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


def line(row: Row) -> tuple[object, ...]:
    """A line of the table; * marks the library's default number of evaluations."""
    count = f"{row.evaluations} *" if row.default else row.evaluations
    ratio = f"{row.own / row.ours:.2g}" if row.ours else ""
    parity = "" if row.parity is None else f"{row.parity:.0e}"
    errors = markdown.number(row.own), markdown.number(row.ours)
    return f"{row.host} {row.version}", row.use, count, row.own_name, errors[0], row.our_name, errors[1], ratio, parity


def main(asked: list[str]) -> None:
    stored: dict[str, list[dict]] = json.loads(STORED.read_text()) if STORED.exists() else {}
    for name in asked or names():
        rows = measured(name)
        if rows is not None:
            stored[name] = [asdict(row) for row in rows]
    write(STORED, lambda partial: partial.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n"))
    every = [Row(**row) for rows in stored.values() for row in rows]
    text = f"{__doc__.splitlines()[0]}\n\n{markdown.table(HEAD, map(line, every))}\n"
    write(RESULTS / "hosts.md", lambda partial: partial.write_text(text))


if __name__ == "__main__":
    main(sys.argv[1:])

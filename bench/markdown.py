"""Tables of errors for the reader."""

from __future__ import annotations

from collections.abc import Iterable


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table of Markdown."""
    head = list(head)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *rows))


def number(error: float) -> str:
    """An error with four decimals, a small one with two digits."""
    return f"{error:.4f}" if error >= 1e-3 else f"{error:.1e}"

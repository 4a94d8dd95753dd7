"""Run the tasks, print their tables, and with --out draw them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.markdown import table

from . import __doc__ as about
from . import digits, style
from .judge import Judge


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and steps")
    parser.add_argument("--out", type=Path, help="folder for the picture and the page of a run")
    asked = parser.parse_args(argv)
    count, counts, fine = (16, (4,), 12) if asked.quick else (100, (4, 6, 8, 10), 48)
    judge = Judge(100, 20) if asked.quick else Judge(1500, 100)
    tasks = digits.Digits(count)
    for name, (y, methods) in tasks.tasks().items():
        print(f"\n### {name}\n\n{table(digits.HEAD, digits.rows(judge, y, methods, counts, fine))}", flush=True)
    styles, passes = style.Style(1 if asked.quick else 2), 10 if asked.quick else 60
    strengths = (0.1,) if asked.quick else (0.3, 1.0, 3.0, 10.0, 30.0)
    print(f"\n### style by reference\n\n{table(style.HEAD, styles.rows(passes, strengths))}", flush=True)
    if asked.out is not None:
        from .picture import draw

        draw(tasks, styles, passes, asked.out)
        tasks.traced(8).html(asked.out / "trace.html")


if __name__ == "__main__":
    main()

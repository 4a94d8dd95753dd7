"""python -m bench.report: run the benchmarks and write bench/results/cpu.md, with ratios in each group."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from .machine import processor

RESULTS = Path(__file__).parent / "results"


def measure() -> list[dict]:
    """The rows of `pytest bench/`, from pytest-benchmark's own JSON."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "benchmarks.json"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", str(Path(__file__).parent), f"--benchmark-json={target}"], check=True
        )
        return json.loads(target.read_text())["benchmarks"]


def table(rows: list[dict]) -> str:
    """One markdown table: microseconds, and how many times fastdiff's time each contestant takes."""
    lines = ["| group | contestant | best us | median us | times ours | median | of copy |", "|---" * 7 + "|"]
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        ours = next((r["stats"] for r in members if r["name"].startswith("test_fastdiff")), None)
        for row in sorted(members, key=lambda r: r["stats"]["median"]):
            best, median = row["stats"]["min"], row["stats"]["median"]
            ratios = f"{best / ours['min']:.1f} | {median / ours['median']:.1f}" if ours else " | "
            share = row["extra_info"].get("of_copy_bandwidth")
            name = row["name"].partition("[")[0].removeprefix("test_")
            text = f"{share:.0%}" if share else ""
            lines.append(f"| {group} | {name} | {best * 1e6:.1f} | {median * 1e6:.1f} | {ratios} | {text} |")
    return "\n".join(lines)


def main() -> None:
    rows = measure()
    head = f"# Benchmarks\n\n`python -m bench.report`, torch {torch.__version__}, {processor()}."
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.md").write_text(f"{head}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()

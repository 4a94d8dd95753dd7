"""The results as JSON and as a markdown table."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import torch

from ..machine import processor
from .rows import Row, Session


def machine(device: str) -> dict[str, str]:
    """What the numbers were taken on."""
    described = {"torch": torch.__version__, "commit": _commit()}
    try:
        import triton

        described["triton"] = triton.__version__
    except ImportError:
        described["triton"] = "none"
    if device == "cuda":
        described |= {"device": torch.cuda.get_device_name(), "driver": _driver(), "cuda": str(torch.version.cuda)}
    else:
        described["device"] = processor()
    return described


def write(folder: Path, session: Session, tests: str) -> Path:
    """<device>.json and <device>.md in the folder; returns the latter."""
    found = machine(session.device)
    folder.mkdir(parents=True, exist_ok=True)
    stem = "".join(c if c.isalnum() else "-" for c in found["device"].lower()).strip("-")[:60]
    data = {"machine": found, "ceilings": session.ceilings, "tests": tests, "rows": session.as_json()}
    (folder / f"{stem}.json").write_text(json.dumps(data, indent=1) + "\n")
    target = folder / f"{stem}.md"
    target.write_text(markdown(session, found, tests))
    return target


def markdown(session: Session, found: dict[str, str], tests: str) -> str:
    ceilings = session.ceilings
    lines = [f"# {found['device']}", "", ", ".join(f"{k} {v}" for k, v in found.items() if k != "device") + ".", ""]
    lines += [f"Tests on the device: {tests}.", ""]
    lines += [
        f"Ceilings measured first: copy {ceilings['copy'] / 1e9:.0f} GB/s (read and written), matrix product "
        f"{ceilings['matmul'] / 1e12:.2f} TFLOP/s, one tiny op {ceilings['launch'] * 1e6:.1f} us."
    ]
    for section in dict.fromkeys(row.section for row in session.rows):
        lines += [
            "",
            f"## {section}",
            "",
            "| case | contestant | best us | median us | of copy | of matmul | host us | |",
        ]
        lines += ["|---" * 8 + "|"]
        rows = [row for row in session.rows if row.section == section]
        for case in dict.fromkeys(row.case for row in rows):
            lines += [_line(row) for row in rows if row.case == case]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    numbers = [f"{v:.1f}" if math.isfinite(v) else "" for v in (row.best, row.median)]
    shares = [f"{v:.0%}" if math.isfinite(v) else "" for v in (row.of_copy, row.of_matmul)]
    host = f"{row.host:.1f}" if math.isfinite(row.host) else ""
    return f"| {row.case} | {row.name} | {' | '.join(numbers)} | {' | '.join(shares)} | {host} | {row.note} |"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or "unknown"


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0]
    except OSError:
        return "unknown"

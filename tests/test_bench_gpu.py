"""`python -m bench.gpu` from end to end on the CPU, so that the one command for a GPU machine cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: object) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "bench.gpu", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_every_section_is_measured_and_written_down(tmp_path: Path) -> None:
    done = command("--out", tmp_path, "--device", "cpu", "--quick", "--no-build", "--no-tests")
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("*.json")
    found = json.loads(results.read_text())
    assert set(found["ceilings"]) == {"copy", "matmul", "launch"}
    assert {"torch", "triton", "commit", "device"} <= set(found["machine"])
    assert {row["section"] for row in found["rows"]} == {"solver step", "group norm", "attention", "loop"}
    for row in found["rows"]:
        assert row["median"] is not None, row
    table = results.with_suffix(".md").read_text()
    for row in found["rows"]:
        assert f"| {row['case']} | {row['name']} |" in table


def test_a_contestant_that_fails_is_a_row_that_says_so() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from bench.gpu.rows import Session
        from bench.gpu.timing import Clock
    finally:
        sys.path.remove(str(ROOT))

    def broken() -> list:
        raise RuntimeError("no such kernel")

    row = Session(Clock("cpu", 0.01), deadline=float("inf"), quick=True).measure("a", "b", "c", broken)
    assert row.note == "RuntimeError: no such kernel"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    done = command("--out", tmp_path)
    assert done.returncode == 2
    assert "--device cpu --quick" in done.stderr

"""`python -m bench.gpu` from end to end on the CPU, so that the one command for a GPU machine cannot rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fastdiff  # noqa: F401  the one under test, before the checkout is on the path


@pytest.fixture(autouse=True)
def bench_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout's bench/ beside the fastdiff that is under test."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])


@pytest.mark.slow
def test_every_section_is_measured_and_written_down(tmp_path: Path) -> None:
    from bench.gpu.__main__ import main

    assert main(["--out", str(tmp_path), "--device", "cpu", "--quick", "--no-build", "--no-tests"]) == 0
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
    from bench.gpu.rows import Session
    from bench.gpu.timing import Clock

    def broken() -> list:
        raise RuntimeError("no such kernel")

    row = Session(Clock("cpu", 0.01), deadline=float("inf"), quick=True).measure("a", "b", "c", broken)
    assert row.note == "RuntimeError: no such kernel"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from bench.gpu.__main__ import main

    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "--device cpu --quick" in capsys.readouterr().err

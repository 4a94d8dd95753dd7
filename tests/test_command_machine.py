"""`fastdiff info` and `fastdiff bench`: what is here, and how fast."""

from __future__ import annotations

import pytest
import torch

from fastdiff.__main__ import main
from fastdiff.commands import bench, compare
from fastdiff.ops import registry


def test_info_names_every_op_and_backend_with_a_reason(capsys: pytest.CaptureFixture) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"torch       {torch.__version__}" in text
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == len(registry.OPS) * len(registry.BACKENDS)
    assert all(" yes" in line or " no: " in line for line in table)
    assert "solver_step      reference  yes" in table


@pytest.mark.slow
def test_bench_prints_both_tables(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CONVERGED_STEPS", 4)
    monkeypatch.setattr(bench, "COUNT", 2)
    assert main(["bench", "--seconds", "0.01"]) == 0
    text = capsys.readouterr().out
    assert "one DPM-Solver++(2M) step" in text
    assert "dpmpp_2m:8" in text

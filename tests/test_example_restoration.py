"""The example of restoration runs, and its samplers meet what was measured."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")


def test_photographs_are_restored_by_samples_that_meet_the_measurements(tmp_path, capsys):
    """Shipped weights and seeds: nothing is left to chance. Residuals of 1 are the noise's own."""
    importlib.import_module("examples.restoration").main(["--quick", "--passes", "60", "--out", str(tmp_path)])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    misfits = [float(line[7]) for line in cells if line[0] == "fastdiff, moment"]
    assert len(misfits) == 3
    assert max(misfits) < 2
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 3
    assert all(path.stat().st_size > 1000 for path in pictures)

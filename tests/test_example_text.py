"""The example of text runs, by diffusers' pipeline and by fastdiff, on the shipped model."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("diffusers")


def test_every_sampler_writes_and_a_language_model_fills_gaps_better_than_chance(tmp_path, capsys):
    importlib.import_module("examples.text").main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "text.md").read_text().strip() == printed.strip()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    writers = [line for line in cells if line[0] == "4" and len(line[1]) > 5]
    assert len(writers) == 5
    assert all(0 < float(line[3]) <= 1 for line in writers)
    gaps = next(line for line in cells if line[0] == "1")
    assert min(map(float, gaps[1:])) > 0.2  # the commonest token alone is right in a fifteenth of the places

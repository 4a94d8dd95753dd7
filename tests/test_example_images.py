"""The example of images runs, and fewer evaluations are nearer to the converged pictures than diffusers' own."""

from __future__ import annotations

import importlib

import pytest
import torch

from fastdiff import demo
from fastdiff.demo import data

for package in ("sklearn", "diffusers", "matplotlib", "plotly"):
    pytest.importorskip(package)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ship: the real ones take seconds to read."""
    few = demo.network("mnist")
    x, y = few.examples.repeat(4, 1, 1, 1), few.labels.repeat(4)
    monkeypatch.setattr(data, "mnist", lambda: data.Data(x, y, x, y))


def module(name: str):
    return importlib.import_module(f"examples.images.{name}")


def rows(printed: str) -> dict[str, dict[str, list[str]]]:
    """The cells of each table's lines by the method's name, by the table's title."""
    found = {}
    for part in printed.split("### ")[1:]:
        title, *lines = part.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
        found[title] = {line[0]: line[1:] for line in cells[2:]}
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:correction", "ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_task_is_nearer_to_its_converged_pictures_than_diffusers(tmp_path, capsys):
    """Shipped weights and fixed seeds: nothing is left to chance."""
    module("__main__").main(["--quick", "--out", str(tmp_path)])
    found = rows(capsys.readouterr().out)
    for task in ("by class", "into the next digit", "lower half"):
        distance = {name: float(cells[1]) for name, cells in found[task].items()}
        assert distance.pop("fastdiff") < 0.7 * min(distance.values()), task
    assert {"fastdiff, gradient", "fastdiff, moment"} <= found["style by reference"].keys()
    assert 10_000 < (tmp_path / "images.png").stat().st_size < 150_000
    assert (tmp_path / "trace.html").read_text().startswith("<!doctype html>")


def test_both_edits_begin_at_one_noise_and_leave_the_upper_half():
    digits = module("digits").Digits(2)
    _, methods = digits.tasks()["lower half"]
    kept = digits.mask == 0
    for draw in methods.values():
        torch.testing.assert_close(draw(3)[:, kept], digits.image[:, kept])


def test_the_style_of_a_picture_is_its_own_and_not_its_mirrors():
    style = module("style").Style(1)
    assert float(style.misfit(style.reference)) == 0
    assert float(style.misfit(style.reference.flip(2))) > 0

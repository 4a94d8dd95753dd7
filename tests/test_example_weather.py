"""The example of downscaling runs, its members have the means that are given, and its scores are what they say."""

from __future__ import annotations

import importlib

import pytest
import torch

from fastdiff import demo

pytest.importorskip("skimage")


@pytest.fixture
def weather():
    return importlib.import_module("examples.weather")


def test_fastdiff_is_nearer_to_the_converged_members_than_heun_with_as_many_evaluations(weather, tmp_path, capsys):
    """Shipped weights and fixed seeds: nothing is left to chance."""
    pytest.importorskip("matplotlib")
    weather.main(["--quick", "--out", str(tmp_path)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    errors = {line[0]: float(line[2]) for line in lines[3:]}
    assert errors["fastdiff"] < 0.8 * errors["PhysicsNeMo's Heun"]
    assert 1000 < (tmp_path / "weather.png").stat().st_size < 150_000


@pytest.mark.parametrize("solver", [None, "heun", "euler"])
def test_members_have_the_means_that_are_given(weather, solver):
    """The last step ends on a mean of predictions that all have them, whatever the network says."""
    data = demo.network("terrain")
    y = weather.coarse(data.examples[:2])
    x = weather.ensemble(weather.Downscaler(data), y, 2, 5, solver)
    torch.testing.assert_close(weather.coarse(x.flatten(0, 1)), y.repeat(2, 1, 1, 1), rtol=0, atol=1e-4)


def test_an_ensemble_that_the_truth_belongs_to_has_flat_ranks_and_a_spread_as_large_as_its_error(weather):
    every = torch.randn(10, 100, 1, 16, 16)
    x, truth = every[1:], every[0]
    counts, count = weather.ranks(x, truth), truth.numel()
    assert counts.sum() == count
    assert (counts - count / 10).abs().max() < 7 * (0.09 * count) ** 0.5
    assert weather.spread_skill(x, truth) == pytest.approx(1.0, abs=7 * count**-0.5)

"""Scores of samples: precision, recall, density and coverage by hand, the Frechet distance by its formula, and both
merged over processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from job_folders import job
from torch import Tensor

import fastdiff as fd
from fastdiff.distributed.manifold import RealBalls, radii, recall
from fastdiff.sampling.ranks import Ranks

REAL = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # k = 1: radii 1, 1, 2, 4
DRAWN = torch.tensor([[0.5], [1.5], [9.0], [20.0], [-1.5]])  # k = 1: radii 1, 1, 7.5, 11, 2


def scores_of(real: Tensor, drawn: Tensor, k: int) -> dict[str, float]:
    balls = RealBalls(real, k)
    balls.add(drawn)
    return {**balls.scores(), "recall": recall(real, drawn, k)}


def test_shares_by_hand():
    assert radii(REAL, 1).tolist() == [1, 1, 2, 4]
    assert radii(DRAWN, 1).tolist() == [1, 1, 7.5, 11, 2]
    # 0.5 lies in the balls of 0 and 1, 1.5 in those of 1 and 3, 9 in that of 7, the others in none.
    assert scores_of(REAL, DRAWN, 1) == {"precision": 3 / 5, "density": 5 / 5, "coverage": 1, "recall": 1}
    # A stray sample has a ball that holds everything, which recall believes and coverage does not.
    assert scores_of(REAL, torch.tensor([[1e3], [0.0], [0.1]]), 1) == {
        "precision": 2 / 3, "density": 4 / 3, "coverage": 2 / 4, "recall": 1,
    }  # fmt: skip


def test_shares_are_those_of_loops_over_all_pairs():
    real, drawn, k = torch.randn(60, 3), 0.7 * torch.randn(50, 3) + 0.3, 4

    def reach(x: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(x[i] - other) for other in x)[k]

    x, y = real.double().numpy(), drawn.double().numpy()
    within = np.array([[np.linalg.norm(a - b) <= reach(x, i) for b in y] for i, a in enumerate(x)])  # [N, M]
    around = np.array([[np.linalg.norm(a - b) <= reach(y, j) for j, b in enumerate(y)] for a in x])
    found = scores_of(real, drawn, k)
    assert found["precision"] == pytest.approx(within.any(0).mean())
    assert found["density"] == pytest.approx(within.sum() / (k * len(y)))
    assert found["coverage"] == pytest.approx(within.any(1).mean())
    assert found["recall"] == pytest.approx(around.any(1).mean())


def test_a_set_that_is_the_data_is_all_covered_and_one_far_away_not_at_all():
    x = torch.randn(40, 2)
    assert set(scores_of(x, x, 3)) == {"precision", "density", "coverage", "recall"}
    assert [scores_of(x, x, 3)[name] for name in ("precision", "coverage", "recall")] == [1, 1, 1]
    assert set(scores_of(x, x + 1e3, 3).values()) == {0}


def test_neighbours_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="k: expected from 1 to 3"):
        radii(REAL, 4)


@pytest.fixture
def measured() -> tuple[Tensor, Tensor, Tensor]:
    """Features of data, their classes, and those of samples."""
    pytest.importorskip("torchmetrics")
    real = torch.randn(120, 4, dtype=torch.float64)
    return real, torch.arange(120) % 3, 1.2 * torch.randn(90, 4, dtype=torch.float64) + 0.5


def measure(real: Tensor, labels: Tensor | None = None, **options: int) -> fd.distributed.Measure:
    return fd.distributed.Measure(lambda x: x, real, labels, **options)


def test_the_frechet_distance_is_that_of_its_formula(measured):
    real, _, drawn = measured
    one = measure(real)
    one.add(drawn, 0)
    a, b = (np.cov(x.numpy(), rowvar=False) for x in (real, drawn))
    roots = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    expected = (real.mean(0) - drawn.mean(0)).square().sum() + np.trace(a) + np.trace(b) - 2 * roots
    assert one.scores(90, Ranks())["fid"] == pytest.approx(float(expected), rel=1e-6)


def test_scores_do_not_depend_on_the_parts_and_their_order(measured):
    real, labels, drawn = measured
    whole, parts = measure(real, labels, kept=70), measure(real, labels, kept=70)
    whole.add(drawn, 0)
    for place in (60, 0, 30):
        parts.add(drawn[place : place + 30], place)
    a, b = (each.scores(90, Ranks()) for each in (whole, parts))
    assert a.keys() == b.keys() >= {"fid", "kid", "precision", "recall", "density", "coverage", "classes"}
    for name, value in a.items():
        assert b[name] == pytest.approx(value, rel=1e-9), name
    assert sum(a["classes"]) == 90
    assert a["recall"] == recall(real, drawn[:70])


def test_what_a_measure_cannot_be_is_refused_by_name(measured):
    real, labels, _ = measured
    with pytest.raises(ValueError, match="labels: expected one for each of the 120"):
        measure(real, labels[1:])
    with pytest.raises(ValueError, match="kept: expected more than the k = 5"):
        measure(real, kept=5)
    with pytest.raises(ValueError, match=r"features: expected \[120, d\]"):
        fd.distributed.Measure(lambda x: x[0], real)


def test_a_job_that_goes_on_measures_what_was_there_too(measured, tmp_path):
    real = measured[0]

    def draw(seeds: list[int]) -> Tensor:
        return fd.noise.randn((len(seeds), 4), seeds, dtype=torch.float64)

    first = job(tmp_path, draw, measure=measure(real)).scores
    assert first == json.loads((tmp_path / "scores.json").read_text())
    (tmp_path / "journal" / "000001.json").unlink()
    again = job(tmp_path, draw, measure=measure(real))
    assert again.drawn == 16
    assert again.scores == pytest.approx(first, rel=1e-9)

"""Which share of the data is drawn, and an ensemble's maps."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

import fastdiff as fd
from fastdiff.distributed import manifold
from fastdiff.inspection import coverage, draw_maps, maps

REAL = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # k = 1: radii 1, 1, 2, 4
DRAWN = torch.tensor([[0.5], [1.5], [9.0], [20.0], [-1.5]])  # k = 1: radii 1, 1, 7.5, 11, 2


def shares(found):
    return found.precision, found.density, found.recall, found.coverage


def test_shares_by_hand():
    found = coverage(REAL, DRAWN, k=1, labels=torch.tensor([0, 0, 1, 1]))
    assert shares(found) == (3 / 5, 5 / 5, 1, 1)
    assert found.shares.tolist() == [3 / 5, 2 / 5]


def test_parts_of_any_size_and_features_in_batches_give_the_same(monkeypatch):
    real, drawn, matrix = torch.randn(50, 2, 3), torch.randn(40, 2, 3), torch.randn(6, 4)
    whole = coverage(real.flatten(1) @ matrix, drawn.flatten(1) @ matrix, k=3)
    monkeypatch.setattr(manifold, "ROWS", 120)
    parts = coverage(real, drawn, k=3, features=lambda x: x.flatten(1) @ matrix, batch=7)
    assert shares(parts) == pytest.approx(shares(whole))


def test_coverage_of_exact_samples_has_its_law():
    """1 - (N - 1) ... (N - k) / ((N + M - 1) ... (N + M - k)), and the mean density is 1 within rounding of 1 / N."""
    n, m, k, runs = 12, 9, 2, 400
    found = torch.tensor([coverage(torch.randn(n, 2), torch.randn(m, 2), k=k).coverage for _ in range(runs)])
    expected = 1 - math.perm(n - 1, k) / math.perm(n + m - 1, k)
    assert abs(found.mean() - expected) < 7 * found.std() / runs**0.5


def test_a_lost_mode_is_missing_from_recall_and_coverage_alone():
    real = torch.cat([torch.randn(60, 2), torch.randn(40, 2) + 100])
    found = coverage(real, torch.randn(200, 2), labels=(torch.arange(100) >= 60).long())
    assert found.coverage <= 0.6
    assert found.recall <= 0.6
    assert found.precision > 0.6
    assert found.shares.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 4}, "real: expected more than the k = 4 neighbours, got 4"),
        ({"drawn": DRAWN.expand(5, 2)}, "drawn: expected 1 features as the real have, got 2"),
        ({"labels": torch.zeros(3)}, r"labels: expected shape \(4,\)"),
        ({"features": lambda x: x[0]}, r"features: expected \[4, d\]"),
        ({"real": REAL * math.nan}, "features: expected finite numbers"),
    ],
)
def test_what_is_wrong_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        coverage(**{"real": REAL, "drawn": DRAWN, "k": 1, **options})


# Maps.


def ensemble(shape, members=6):
    """Independent unit Gaussian numbers."""
    schedule = fd.Schedule.edm()
    plan = fd.plan("ddim", schedule, 3, prediction="sample")
    return fd.ensemble(lambda x, t: x / (1 + t.view(-1, *[1] * (x.ndim - 1)) ** 2), plan, shape, members)


def test_ranks_are_shares_of_members_below():
    found, truth = ensemble((2, 3, 4, 5)), torch.randn(2, 3, 4, 5)
    truth[0, 0] = found.members[0, 2, 0]  # equal to one member
    seen = maps(found, truth)
    members = found.members
    expected = ((members < truth[:, None]).float() + (members <= truth[:, None]).float()).mean(1) / 2
    torch.testing.assert_close(seen["rank"], expected)
    torch.testing.assert_close(seen["error"], (members.mean(1) - truth).abs())
    assert list(seen) == ["truth", "mean", "spread", "error", "rank"]
    assert list(maps(found)) == ["mean", "spread"]


@pytest.mark.parametrize(("shape", "rows"), [((6, 8), 1), ((2, 3, 6, 8), 2)])
def test_maps_are_drawn_with_a_row_for_each_channel(shape, rows, tmp_path):
    found = ensemble((2, *shape), 3)
    draw_maps(found, tmp_path / "maps.png", torch.randn(2, *shape), item=1)
    with Image.open(tmp_path / "maps.png") as image:
        assert image.format == "PNG"
        assert image.size == (5 * 220, rows * 220)


def test_maps_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="item: expected from 0 to 0, got 1"):
        draw_maps(ensemble((1, 4, 4)), tmp_path / "x.png", item=1)
    with pytest.raises(ValueError, match="ensemble: expected members"):
        draw_maps(ensemble((1, 4)), tmp_path / "x.png")
    with pytest.raises(ValueError, match="truth: expected shape"):
        maps(ensemble((1, 4, 4)), torch.zeros(1, 4))
    assert not list(tmp_path.iterdir())

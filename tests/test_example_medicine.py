"""The example of medicine runs on a phantom, and what is kept from the training is far from what is trained on."""

from __future__ import annotations

import importlib

import pytest
import torch

for package in ("monai", "einops", "skimage", "matplotlib"):
    pytest.importorskip(package)


@pytest.fixture
def medicine():
    return importlib.import_module("examples.medicine.__main__")


def phantom() -> torch.Tensor:
    """Ellipses in a head, [189, 1, 192, 192]: as `volume`, without the package that has it."""
    v = torch.linspace(-1, 1, 192)
    r = (v[:, None] / 0.9).square() + (v / 0.75).square()
    inner = ((v[:, None] - 0.2) / 0.3).square() + (v.abs() - 0.2).div(0.1).square()
    return ((r < 1) * (1.2 - 0.6 * (inner < 1)) - 1.0).expand(189, 1, 192, 192)


def test_the_default_plan_is_nearer_than_monais_ddim_and_reconstructions_meet_the_measurements(
    medicine, tmp_path, capsys, monkeypatch
):
    """Whatever the network has learnt: both are of one ODE, and seeds are fixed. Residuals of 1 are the noise's own."""
    monkeypatch.setattr(medicine.brain, "volume", phantom)
    medicine.main(["--quick", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    errors = {line[0]: float(line[2]) for line in cells if len(line) == 3 and line[1] == "4"}
    assert errors["PlanScheduler"] < 0.5 * errors["MONAI's DDIM"]
    assert "Fourier rows, 12 of 48" in out
    misfits = {line[0]: float(line[7]) for line in cells if line[0].startswith("fastdiff, ")}
    assert misfits["fastdiff, moment"] < 2
    assert 1000 < (tmp_path / "medicine.png").stat().st_size < 150_000


def test_what_is_trained_on_is_farther_from_what_is_kept_than_the_margin(medicine):
    heights = torch.arange(189) / 200
    seen = 200 * medicine.brain.trained_on(heights.view(-1, 1, 1, 1).expand(-1, 1, 8, 8))[:, 0, 0, 0]
    assert len(seen) == 189 - len(medicine.brain.KEPT) * (2 * medicine.brain.MARGIN + 1)
    assert (seen[:, None] - torch.tensor(medicine.brain.KEPT)).abs().min() > medicine.brain.MARGIN


def test_moved_slices_stay_in_the_field_and_differ(medicine):
    torch.manual_seed(0)
    x = medicine.brain.moved(phantom()[:1], 6)
    assert x.shape == (6, 1, 48, 48)
    assert x.flatten(1).std(1).min() > 0.2
    assert (x[0] - x[1]).abs().max() > 0.1
    torch.testing.assert_close(x[..., 0, 0], torch.full((6, 1), -1.0))


def test_the_brain_of_the_package_is_one(medicine):
    pytest.importorskip("nilearn")
    pytest.importorskip("nibabel")
    slices = medicine.brain.volume()
    assert slices.shape == (189, 1, 192, 192)
    assert (float(slices.min()), float(slices.max())) == (-1.0, 1.0)
    right = slices[..., 1:]  # the middle is the point 96
    torch.testing.assert_close(right, right.flip(3), rtol=0, atol=0.05)  # the average is of mirrored brains too
    middle = slices[72, 0] > -0.5
    assert 0.2 < float(middle.float().mean()) < 0.6

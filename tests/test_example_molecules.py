"""The example of molecules: its network has no direction, its scores know what a molecule is, and it runs."""

from __future__ import annotations

import importlib

import pytest
import torch

from fastdiff import structures

data, network, scores = (
    importlib.import_module(f"examples.molecules.{name}") for name in ("data", "network", "scores")
)


def methane(bond: float = 1.09):
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    x = torch.cat([torch.zeros(1, 3), bond * corners, torch.zeros(1, 3)])[None] / data.ANGSTROM
    return data.Molecules(torch.tensor([[6, 1, 1, 1, 1, 0]]), x, ("CH4",))


def test_methane_is_valid_and_broken_or_crowded_methane_is_not():
    lengths = (0.6, 1.09, 1.25, 1.5)
    assert [bool(scores.valid(methane(bond))) for bond in lengths] == [False, True, True, False]
    fifth = methane()._replace(
        atoms=torch.tensor([[6, 1, 1, 1, 1, 1]]), x=methane().x + torch.eye(6)[5][:, None] * 0.35
    )
    assert not scores.valid(fifth)


def test_a_molecule_is_known_in_any_frame_and_order():
    known = methane()
    order = torch.tensor([4, 2, 0, 1, 3, 5])
    moved = known._replace(
        atoms=known.atoms[:, order], x=known.x[:, order] @ structures.random_rotations(1)[0] + torch.randn(3)
    )
    assert scores.nearest_known(moved, known) < 1e-5
    assert scores.distances_apart(moved, known) < 1e-5
    assert scores.nearest_known(methane(1.19), known) == pytest.approx(
        scores.distances_apart(methane(1.19), known), rel=0.2
    )


def test_the_network_turns_and_reorders_with_its_atoms():
    denoise, atoms = network.Denoiser(network.Atoms(16, 2)), methane().atoms
    x = structures.centre(torch.randn(1, 6, 3), atoms > 0) * (atoms > 0)[..., None]
    t, turn, order = torch.tensor([0.3]), structures.random_rotations(1)[0], torch.tensor([3, 1, 0, 2, 4, 5])
    out = denoise(x, t, atoms)
    torch.testing.assert_close(denoise(x @ turn.T, t, atoms), out @ turn.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(denoise(x[:, order], t, atoms[:, order]), out[:, order], rtol=1e-4, atol=1e-5)
    assert out[0, 5].abs().max() == 0
    assert out.sum(1).abs().max() < 1e-5


def test_the_example_runs_on_known_molecules_that_are_all_valid(tmp_path, capsys):
    pytest.importorskip("ase")
    known = data.molecules()
    assert scores.valid(known).all()
    assert scores.nearest_known(known, known).max() == 0
    importlib.import_module("examples.molecules.__main__").main(["--quick", "--out", str(tmp_path)])
    printed = [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert printed[2:] == ["Euler", "Heun (EDM)", "AlphaFold 3, Boltz", "fastdiff"]
    assert 1000 < (tmp_path / "molecules.png").stat().st_size < 150_000

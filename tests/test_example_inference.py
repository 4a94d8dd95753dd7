"""The example of inference: its posterior is the simulator's, and it runs where sbi is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples.inference import exact_posterior, main, sliced_distance, two_moons


def test_the_exact_posterior_is_that_of_the_simulator(seed: int) -> None:
    """Bayes by rejection: parameters of the prior whose simulation falls near x have the law of the exact draws."""
    torch.manual_seed(seed)
    x, near = torch.tensor([-0.1, 0.1]), 0.05
    theta = 2 * torch.rand(400_000, 2) - 1
    kept = theta[(two_moons(theta) - x).abs().amax(1) < near]
    exact = exact_posterior(x, len(kept))
    # Points of the box around x move theta by at most 2 near; what remains is the error of two empirical laws.
    shift = 2 * near / 2
    assert len(exact) == len(kept) > 300
    for a, b in ((kept.sum(1).abs(), exact.sum(1).abs()), (kept.diff(dim=1), exact.diff(dim=1))):
        spread = 7 * (2 * exact.var(0).max() / len(kept)) ** 0.5
        assert abs(float(a.mean() - b.mean())) < shift + spread
    assert abs(float((exact.sum(1) > 0).double().mean()) - 0.5) < 7 * 0.5 / len(exact) ** 0.5


def test_the_distance_of_a_shift_is_its_mean_over_directions() -> None:
    x = torch.randn(100, 2)
    assert sliced_distance(x, x) == 0
    assert sliced_distance(x, x + torch.tensor([1.0, 0.0])) == pytest.approx(2 / torch.pi, abs=1e-3)


@pytest.mark.hosts
def test_the_example_prints_its_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sbi")
    main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("| fastdiff |") == printed.count("| euler_maruyama |") == 4
    assert (tmp_path / "inference.png").exists()

"""The example of return paths: its facts are what they are called, and it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from examples.finance.facts import crps, facts, kupiec, pinball


def test_facts_of_laws_that_are_known(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(200, 250))
    kurtosis, _, squares, leverage, returns = facts(normal)
    n = normal.size
    assert abs(kurtosis - 3) < 7 * (24 / n) ** 0.5
    assert max(abs(squares), abs(leverage), abs(returns)) < 7 / (200 * 240) ** 0.5
    pareto = -(1 + rng.pareto(3.0, size=(200, 250)))
    hill = facts(pareto)[1]
    assert abs(hill - 3) < 7 * 3 / (n // 20) ** 0.5
    clusters = normal * np.repeat(1 + rng.random((200, 10)) * 4, 25, axis=1)
    assert facts(clusters)[2] > 0.1


def test_scores_of_forecasts_are_least_at_the_law_that_came() -> None:
    assert kupiec(5, 100, 0.05) == 1
    ratio = -2 * (100 * np.log(0.95))  # of no violation in 100 days
    np.testing.assert_allclose(kupiec(0, 100, 0.05), chi2.sf(ratio, 1))
    r = np.linspace(-1, 1, 2001)
    losses = [pinball(np.full_like(r, q), r, 0.05) for q in (-0.95, -0.9, -0.85)]
    assert losses[1] == min(losses)
    np.testing.assert_allclose(crps(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([1.0, 3.0])), (0.5 + 2) / 2)


@pytest.mark.slow
def test_the_example_prints_its_tables_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("arch")
    from examples.finance.__main__ import main

    main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("GJR-GARCH-t") == 2
    assert "nan" not in printed
    assert (tmp_path / "finance.png").stat().st_size > 10_000

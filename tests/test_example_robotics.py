"""The robotics example: its denoiser is exact, and it runs in the real environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("gym_pusht", exc_type=ImportError)

from examples.robotics.__main__ import apart, main, samplers
from examples.robotics.policy import HORIZON, SCHEDULE, WIDTH, Denoiser, Policy


def demonstrations(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Agents that go around in circles."""
    rng = np.random.default_rng(seed)
    episodes = []
    for phase in rng.uniform(0, 2 * np.pi, 12):
        angle = phase + 0.1 * np.arange(40)
        way = 256 + 150 * np.stack([np.cos(angle), np.sin(angle)], 1)
        episodes.append((np.column_stack([way[:-1], np.full((39, 3), 2.0)]), way[1:]))
    return episodes


def test_the_noise_in_a_chunk_near_one_demonstration_is_that_of_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    x, chunk = (torch.randn(3, HORIZON, 2, generator=generator) for _ in range(2))
    t = torch.tensor([0.0, 40.0, 99.0])
    told = torch.cat([torch.zeros(3, 1, 1), chunk.flatten(1)[:, None]], -1)
    at = SCHEDULE.at(t.double().numpy())
    alpha, sigma = (torch.as_tensor(v, dtype=torch.float32)[:, None, None] for v in (at.alpha, at.sigma))
    expected = sigma * (x - alpha * chunk) / (alpha**2 * WIDTH**2 + sigma**2)
    assert torch.allclose(Denoiser()(x, t, told), expected, rtol=1e-3, atol=1e-3)


def test_a_chunk_by_the_default_plan_is_nearer_to_the_converged_one_than_by_the_librarys_loop() -> None:
    policy = Policy(demonstrations(0))
    seen = demonstrations(1)[0][0]
    found = {(name.strip("*"), n): apart(policy, draw, seen) for name, n, draw in samplers(policy, False) if n <= 10}
    for evaluations in (4, 6, 8, 10):
        assert found["fastdiff", evaluations] < found["DDIM", evaluations]


def test_the_example_runs(tmp_path: Path) -> None:
    found = main(["--quick", "--out", str(tmp_path)])
    assert [name for name, _, _ in found] == ["DDPM", "DDIM", "**fastdiff**"]
    assert all(0 <= result.coverage.min() <= result.coverage.max() <= 1 for _, _, result in found)
    assert (tmp_path / "example_robotics.png").stat().st_size < 150_000
    assert (tmp_path / "example_robotics.md").read_text().count("\n") > 8

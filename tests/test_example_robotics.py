"""The robotics example: the mirror image of a demonstration, a policy that learns to go in circles, the environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gym_pusht", exc_type=ImportError)

from examples.robotics.__main__ import main
from examples.robotics.demonstrations import Episode, mirrored, windows
from examples.robotics.expert import GOAL, distance, outline
from examples.robotics.network import View
from examples.robotics.policy import SCHEDULE, Policy
from examples.robotics.samplers import Converged, samplers
from examples.robotics.training import trained


def circles(count: int) -> list[Episode]:
    """Agents that go around in circles, 15 pixels a step."""
    rng = np.random.default_rng(0)
    episodes = []
    for phase in rng.uniform(0, 2 * np.pi, count):
        angle = phase + 0.1 * np.arange(40)
        way = 256 + 150 * np.stack([np.cos(angle), np.sin(angle)], 1)
        episodes.append((np.column_stack([way[:-1], np.full((39, 3), 2.0)]), way[1:]))
    return episodes


def test_the_mirror_image_of_a_block_is_as_far_from_the_goal_and_its_corners_are_reflected() -> None:
    pose = np.random.default_rng().uniform((0, 0, 100, 100, -np.pi), (512, 512, 400, 400, np.pi))
    image, action = mirrored(pose[None], pose[None, :2])
    reflected = 512 - outline(pose[2:])[:, ::-1]
    apart = np.linalg.norm(outline(image[0, 2:])[:, None] - reflected, axis=-1)
    assert max(apart.min(0).max(), apart.min(1).max()) < 1e-9
    assert np.allclose(image[0, :2], action[0])
    assert np.allclose(mirrored(image, action)[0][0, :2], pose[:2])
    assert distance(mirrored(np.array([[0, 0, *GOAL]]), action)[0][0, 2:]) < 1e-9


def test_a_policy_learns_circles_and_the_default_plan_is_nearer_to_convergence_than_the_librarys_loop() -> None:
    told, wanted = windows(circles(12))
    reach = wanted.abs().amax((0, 2))[:, None]
    policy = Policy(View(trained(told, wanted / reach, 300, width=64, batch=64), SCHEDULE), reach)
    converged = Converged(policy, None, told[::8], 100)
    missed = (reach * converged.ends[False] - wanted[::8]).square().mean().sqrt()
    assert missed < 0.5 * wanted.square().mean().sqrt()  # who knows nothing of the scene misses by the whole
    found = {(s.name.strip("*"), s.evaluations): converged.apart(s) for s in samplers(policy, None, False)}
    for evaluations in (4, 10):
        assert found["fastdiff", evaluations] < found["DDIM", evaluations]


def test_the_example_runs(tmp_path: Path) -> None:
    found = main(["--quick", "--out", str(tmp_path)])
    assert [name for name, _, _ in found] == ["DDPM", "DDIM", "**fastdiff**"]
    assert all(0 <= result.coverage.min() <= result.coverage.max() <= 1 for _, _, result in found)
    assert (tmp_path / "example_robotics.png").stat().st_size < 150_000
    assert (tmp_path / "example_robotics.md").read_text().count("\n") >= 7

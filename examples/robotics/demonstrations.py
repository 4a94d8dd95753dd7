"""What the expert shows: episodes, their mirror images, and the windows that a policy learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .expert import Simulator, episode, make_env
from .scene import features

HORIZON = 16  # actions of a chunk
FIRST = 10_000  # the seed of the first demonstration; rollouts start from 0 on

Episode = tuple[np.ndarray, np.ndarray]  # observations [T, 5], actions [T, 2]


def demonstrations(count: int, file: Path | None = None) -> list[Episode]:
    """Those of `count` episodes of the expert that succeeded; kept in the file."""
    if file is not None and file.exists():
        kept = np.load(file)
        cut = np.cumsum(kept["n"])[:-1]
        return list(zip(np.split(kept["o"], cut), np.split(kept["a"], cut), strict=True))
    env, simulator = make_env(), Simulator()
    runs = [episode(env, simulator, FIRST + k) for k in range(count)]
    shown = [(seen, actions) for seen, actions, coverage in runs if coverage > 0.95]
    if file is not None:
        columns = {"o": np.concatenate([s for s, _ in shown]), "a": np.concatenate([a for _, a in shown])}
        np.savez(file, n=[len(s) for s, _ in shown], **columns)
    return shown


def mirrored(seen: np.ndarray, actions: np.ndarray) -> Episode:
    """The episode in the mirror x + y = 512, the axis of the goal's T: it is shown as well."""
    agent, block, angle = seen[:, 1::-1], seen[:, 3:1:-1], seen[:, 4:]
    return np.hstack([512 - agent, 512 - block, (np.pi / 2 - angle) % (2 * np.pi)]), 512 - actions[:, ::-1]


def windows(episodes: Sequence[Episode]) -> tuple[Tensor, Tensor]:
    """(features [N, 86], the next actions [N, 16, 2] in pixels from the agent) at every step of all episodes."""
    told, wanted = [], []
    for observations, actions in episodes:
        seen, last = torch.as_tensor(observations, dtype=torch.float32), torch.arange(len(observations))
        told.append(features(torch.stack([seen[(last - 1).clamp(min=0)], seen], 1)))
        following = (last[:, None] + torch.arange(HORIZON)).clamp(max=len(seen) - 1)
        wanted.append(torch.as_tensor(actions, dtype=torch.float32)[following] - seen[:, None, :2])
    return torch.cat(told), torch.cat(wanted)

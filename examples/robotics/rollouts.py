"""A policy in many PushT environments at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .demonstrations import HORIZON
from .expert import make_env
from .policy import EXECUTED
from .samplers import Draw
from .scene import features


class Result(NamedTuple):
    """coverage: [N] the greatest of each episode. paths: [T, 5] the observations of each."""

    coverage: np.ndarray
    paths: list[np.ndarray]

    @property
    def success(self) -> np.ndarray:
        return self.coverage > 0.95


def roll_out(draw: Draw, reach: Tensor, count: int, first_seed: int = 0) -> Result:
    """`count` episodes of at most 300 steps. Episode k starts from seed first_seed + k; noise is the same for all.

    reach: [16, 1], as a `Policy` has it.
    """
    envs = [make_env() for _ in range(count)]
    seen = np.stack([env.reset(seed=first_seed + k)[0] for k, env in enumerate(envs)])
    before, best, done = seen.copy(), np.zeros(count), np.zeros(count, bool)
    generator = torch.Generator().manual_seed(0)
    paths = [[s] for s in seen]
    while not done.all():
        live = np.flatnonzero(~done)
        noise = torch.randn(count, HORIZON, 2, generator=generator)[live]
        told = features(torch.as_tensor(np.stack([before[live], seen[live]], 1), dtype=torch.float32))
        chunks = (reach * draw(told, noise, generator)).numpy()
        targets = (chunks + seen[live, None, :2]).clip(0, 512)
        for k, chunk in zip(live, targets, strict=True):
            for target in chunk[:EXECUTED].astype(float):
                before[k] = seen[k]
                seen[k], _, success, late, info = envs[k].step(target)
                paths[k].append(seen[k].copy())
                best[k], done[k] = max(best[k], info["coverage"]), success or late
                if done[k]:
                    break
    return Result(best, [np.array(path) for path in paths])

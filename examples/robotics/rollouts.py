"""A policy in many PushT environments at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .expert import make_env
from .policy import EXECUTED, HORIZON, REACH, Policy

Draw = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # conditions, noise [B, 16, 2], generator -> chunks


class Result(NamedTuple):
    """coverage: [N] the greatest of each episode. ms: the median time of a batch of chunks. paths: of the block."""

    coverage: np.ndarray
    ms: float
    paths: list[np.ndarray]

    @property
    def success(self) -> np.ndarray:
        return self.coverage > 0.95


def roll_out(policy: Policy, draw: Draw, count: int, first_seed: int = 0) -> Result:
    """`count` episodes of at most 300 steps. Episode k starts from seed first_seed + k; noise is the same for all."""
    envs = [make_env() for _ in range(count)]
    seen = np.stack([env.reset(seed=first_seed + k)[0] for k, env in enumerate(envs)])
    before, best, done = seen.copy(), np.zeros(count), np.zeros(count, bool)
    generator = torch.Generator().manual_seed(0)
    paths, times = [[s] for s in seen], []
    while not done.all():
        live = np.flatnonzero(~done)
        noise = torch.randn(count, HORIZON, 2, generator=generator)[live]
        looked = policy.look(torch.as_tensor(np.stack([before[live], seen[live]], 1), dtype=torch.float32))
        began = time.perf_counter()
        chunks = draw(looked, noise, generator)
        times.append(1000 * (time.perf_counter() - began))
        targets = (chunks.numpy() * REACH + seen[live, None, :2]).clip(0, 512)
        for k, chunk in zip(live, targets, strict=True):
            for target in chunk[:EXECUTED].astype(float):
                before[k] = seen[k]
                seen[k], _, success, late, info = envs[k].step(target)
                paths[k].append(seen[k].copy())
                best[k], done[k] = max(best[k], info["coverage"]), success or late
                if done[k]:
                    break
    return Result(best, float(np.median(times)), [np.array(path) for path in paths])

"""The loop that trains an example's network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def descended(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, average: AveragedModel, model: nn.Module, *,
    steps: int, warmup: int = 50,
) -> nn.Module:  # fmt: skip
    """The model's average after so many steps on losses of fresh batches, ready to be sampled from.

    The rate rises over `warmup` steps and falls to 0 like a cosine; gradients have norm 1 at most.
    """
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, i / warmup) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    for step in range(steps):
        now = loss()
        optimizer.zero_grad(set_to_none=True)
        now.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average.update_parameters(model)
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: loss {now.item():.3f}", flush=True)
    return average.module.eval().requires_grad_(False)

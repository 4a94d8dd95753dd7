"""A few minutes of flow matching on videos made afresh."""

from __future__ import annotations

import math

import torch
from torch import nn

import fastdiff as fd
from fastdiff import training

from .data import videos
from .network import Mover

SCHEDULE = fd.Schedule.flow()


def trained(steps: int, batch: int = 16, seed: int = 0) -> nn.Module:
    """The velocity after so many steps of Adam, averaged."""
    torch.manual_seed(seed)
    model = Mover()
    average = training.power_averaged(model, 0.1)
    adam = torch.optim.Adam(model.parameters(), 3e-3, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda i: min(1, i / 50) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    for step in range(steps):
        loss = training.flow_loss(model, SCHEDULE, videos(batch).x, t=training.logit_normal)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        decay.step()
        average.update_parameters(model)
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return average.module.eval().requires_grad_(False)

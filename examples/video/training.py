"""A few minutes of flow matching on videos made afresh."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff import training

from ..descent import descended
from .data import videos
from .network import Mover

SCHEDULE = fd.Schedule.flow()


def trained(steps: int, batch: int = 16, seed: int = 0) -> nn.Module:
    """The velocity after so many steps of Adam, averaged."""
    torch.manual_seed(seed)
    model = Mover()
    average = training.power_averaged(model, 0.1)
    adam = torch.optim.Adam(model.parameters(), 3e-3, betas=(0.9, 0.99))

    def loss() -> Tensor:
        return training.flow_loss(model, SCHEDULE, videos(batch).x, t=training.logit_normal)

    return descended(loss, adam, average, model, steps=steps)

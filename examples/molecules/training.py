"""A few minutes of denoising."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff import structures, training

from ..descent import descended
from .data import Molecules
from .network import Atoms, Denoiser

SCHEDULE = fd.Schedule.edm(0.01, 10.0)


def noises(schedule: fd.Schedule, u: Tensor) -> Tensor:
    """ln(sigma) over all of the schedule, wider than EDM's: samplers of few steps ask at both ends."""
    return training.log_normal(schedule, u, mean=-1.0, std=1.4)


def trained(known: Molecules, steps: int, batch: int = 32, seed: int = 0) -> nn.Module:
    """D after so many steps of Adam, averaged."""
    torch.manual_seed(seed)
    model = Denoiser(Atoms())
    average = training.power_averaged(model, 0.1)
    adam = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.9, 0.99))

    def loss() -> Tensor:
        seen = known.at(torch.randint(len(known.x), (batch,)))
        noise = structures.centred_noise(seen.x.shape, seen.mask)
        return training.edm_loss(model, SCHEDULE, seen.x, t=noises, noise=noise, atoms=seen.atoms)

    return descended(loss, adam, average, model, steps=steps)

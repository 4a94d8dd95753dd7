"""MONAI's diffusion network, trained on slices."""

from __future__ import annotations

import math

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

import fastdiff as fd
from fastdiff import training
from fastdiff.demo import DemoNetwork

from .brain import SIZE, moved

NOISES = {"schedule": "scaled_linear_beta", "prediction_type": "v_prediction", "clip_sample": False}


class Folded(DiffusionModelUNet):
    """MONAI's network on squares of 2 x 2 points, which is four times as fast."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        return pixel_shuffle(super().forward(pixel_unshuffle(x, 2), timesteps, context), 2)


def train(slices: Tensor, steps: int, batch: int = 8) -> DemoNetwork:
    torch.manual_seed(0)
    channels = (32, 64, 64)
    network = Folded(
        2, 4, 4, channels=channels, num_res_blocks=1, attention_levels=(False, False, True), num_head_channels=32,
        norm_num_groups=8,
    )  # fmt: skip
    cumulative = DDIMScheduler(**NOISES).alphas_cumprod.double().numpy()
    schedule = fd.Schedule.from_alphas_cumprod(cumulative)
    average = training.power_averaged(network, 0.1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 50) * (1 + math.cos(math.pi * i / steps)))
    for _ in range(steps):
        loss = training.v_loss(network, schedule, moved(slices, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        average.update_parameters(network)
    model = average.module.eval().requires_grad_(False)
    nothing = torch.zeros(0)
    return DemoNetwork("brain", model, schedule, "v_prediction", (1, SIZE, SIZE), 0, lambda x: x, nothing, nothing, {})

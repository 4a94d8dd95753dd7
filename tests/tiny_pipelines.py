"""Real diffusers pipelines from tiny configurations with random weights: nothing is downloaded."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel


def latent_vae(**options: object) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=[16, 32], in_channels=3, out_channels=3, norm_num_groups=8, sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4,
        **options,
    )  # fmt: skip


def text_unet(**options: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=16, norm_num_groups=8, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"in_channels": 4, "cross_attention_dim": 16, "attention_head_dim": 4, **options},
    )  # fmt: skip

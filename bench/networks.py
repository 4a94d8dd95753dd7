"""Stable Diffusion 1.5's networks at a fraction of their width, with random weights: real work without a download."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers import DPMSolverMultistepScheduler

from .in_diffusers import SCHEDULE

TOKENS, CONTEXT = 77, 768


def unet(share: int = 4) -> UNet2DConditionModel:
    """The U-Net with 1/share of the channels, groups and heads; head sizes stay 40, 80 and 160."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(width // share for width in (320, 640, 1280, 1280)),
        norm_num_groups=32 // share,
        attention_head_dim=8 // share,  # diffusers' name for the number of heads
        cross_attention_dim=CONTEXT,
    )
    return model.eval()


def vae(share: int = 4) -> AutoencoderKL:
    """The image decoder with 1/share of the channels and groups."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        sample_size=512,
        block_out_channels=tuple(width // share for width in (128, 256, 512, 512)),
        norm_num_groups=32 // share,
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    return model.eval()


def pipeline(share: int = 4) -> StableDiffusionPipeline:
    """Text to image; prompts go in as embeddings [1, TOKENS, CONTEXT], for there is no text encoder."""
    pipe = StableDiffusionPipeline(
        vae=vae(share),
        text_encoder=None,
        tokenizer=None,
        unet=unet(share),
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe

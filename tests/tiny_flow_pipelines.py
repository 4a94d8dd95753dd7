"""Real flow pipelines of diffusers from tiny configurations with random weights, besides those of `tiny_pipelines`.

Each function takes a scheduler and gives the pipeline and the arguments of its call, without guidance.
"""

from __future__ import annotations

import diffusers
import tiny_pipelines as tiny
import torch
from torch import nn

WORDS = 5


@tiny.same_weights
def network(kind: str, layers: int = 1, **options: object) -> nn.Module:
    return getattr(diffusers, kind)(num_layers=layers, **options)


def prompt(width: int, *masks: str) -> dict[str, torch.Tensor]:
    """Two prompts, already encoded."""
    words = {"prompt_embeds": tiny.tensor(2, WORDS, width), "output_type": "latent"}
    return words | {name: torch.ones(2, WORDS, dtype=torch.int64) for name in masks}


def sd3(scheduler: object, channels: int = 4, layers: int = 1) -> tuple:
    net = network(
        "SD3Transformer2DModel", layers, num_attention_heads=2, attention_head_dim=16, sample_size=8,
        in_channels=channels, out_channels=channels, joint_attention_dim=tiny.WIDTH, caption_projection_dim=32,
        pooled_projection_dim=tiny.WIDTH, pos_embed_max_size=8,
    )  # fmt: skip
    missing = dict.fromkeys(f"{part}{k}" for part in ("text_encoder", "tokenizer") for k in ("", "_2", "_3"))
    vae = tiny.latent_vae(shift_factor=0.1, latent_channels=channels)
    pipe = diffusers.StableDiffusion3Pipeline(transformer=net, vae=vae, scheduler=scheduler, **missing)
    size = {"height": 16, "width": 16, "guidance_scale": 1.0, "output_type": "latent"}
    return pipe, {**tiny.prompt(pooled=True), **size}


def wan(scheduler: object, layers: int = 1) -> tuple:
    net = network(
        "WanTransformer3DModel", layers, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=32, ffn_dim=16, rope_max_seq_len=32, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    pipe = diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=net)
    return pipe, {**prompt(16), "height": 16, "width": 16, "num_frames": 5, "guidance_scale": 1.0}


def qwen_image(scheduler: object) -> tuple:
    net = network(
        "QwenImageTransformer2DModel", patch_size=2, in_channels=16, out_channels=4, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(
        scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=net
    )
    return pipe, {**prompt(16, "prompt_embeds_mask"), "height": 32, "width": 32, "true_cfg_scale": 1.0}


def sana(scheduler: object) -> tuple:
    net = network(
        "SanaTransformer2DModel", patch_size=1, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=8, sample_size=8,
    )  # fmt: skip
    pipe = diffusers.SanaPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=scheduler)
    size = {"height": 128, "width": 128, "use_resolution_binning": False, "guidance_scale": 1.0}
    return pipe, {**prompt(8, "prompt_attention_mask"), **size}


def ltx(scheduler: object) -> tuple:
    net = network(
        "LTXVideoTransformer3DModel", in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, caption_channels=16,
    )  # fmt: skip
    pipe = diffusers.LTXPipeline(scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=net)
    size = {"height": 64, "width": 64, "num_frames": 9, "guidance_scale": 1.0}
    return pipe, {**prompt(16, "prompt_attention_mask"), **size}

"""Real modular pipelines of diffusers from tiny configurations with random weights: from prompts to latents.

Each function takes a scheduler and a guider and gives the pipeline and the arguments that its call needs besides
`num_inference_steps` and `generator`.
"""

from __future__ import annotations

import tiny_flow_pipelines as flow
import tiny_pipelines as tiny
import torch
from diffusers.modular_pipelines.qwenimage import modular_blocks_qwenimage as qwenimage_blocks
from diffusers.modular_pipelines.stable_diffusion_3 import modular_blocks_stable_diffusion_3 as sd3_blocks
from diffusers.modular_pipelines.stable_diffusion_xl import modular_blocks_stable_diffusion_xl as sdxl_blocks
from diffusers.modular_pipelines.wan import modular_blocks_wan as wan_blocks


def made(blocks: object, guider: object, **parts: object) -> object:
    pipe = blocks.init_pipeline()
    pipe.update_components(guider=guider, **parts)
    return pipe


def without(call: dict, *names: str) -> dict:
    return {name: value for name, value in call.items() if name not in names}


def sdxl(scheduler: object, guider: object) -> tuple:
    """A U-Net that predicts the noise, and is given scaled latents."""
    base, call = tiny.sdxl(scheduler)
    pipe = made(sdxl_blocks.StableDiffusionXLCoreDenoiseStep(), guider, unet=base.unet, scheduler=scheduler)
    return pipe, without(call, "output_type")


def sd3(scheduler: object, guider: object) -> tuple:
    """A flow; blocks of two streams."""
    net = flow.network(
        "SD3Transformer2DModel", layers=3, num_attention_heads=2, attention_head_dim=16, sample_size=8, in_channels=4,
        out_channels=4, joint_attention_dim=tiny.WIDTH, caption_projection_dim=32, pooled_projection_dim=tiny.WIDTH,
        pos_embed_max_size=8,
    )  # fmt: skip
    pipe = made(
        sd3_blocks.StableDiffusion3T2ICoreDenoiseStep(), guider, transformer=tiny.copied(net), scheduler=scheduler
    )
    return pipe, {**tiny.prompt(pooled=True), "height": 64, "width": 32}


def qwen_image(scheduler: object, guider: object) -> tuple:
    """A flow on packed latents. The pipeline gives each token of the result the length of the conditional one's."""
    base, call = flow.qwen_image(scheduler)
    pipe = made(qwenimage_blocks.QwenImageCoreDenoiseStep(), guider, transformer=base.transformer, scheduler=scheduler)
    negative = {
        "negative_prompt_embeds": tiny.tensor(*call["prompt_embeds"].shape, seed=7),
        "negative_prompt_embeds_mask": call["prompt_embeds_mask"],
    }
    return pipe, {**without(call, "output_type", "true_cfg_scale"), **negative}


def wan(scheduler: object, guider: object) -> tuple:
    """A flow; blocks of one stream, with self-attention and attention to the text."""
    net = flow.network(
        "WanTransformer3DModel", layers=3, num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=16, freq_dim=32, ffn_dim=16, rope_max_seq_len=32, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    pipe = made(wan_blocks.WanCoreDenoiseStep(), guider, transformer=tiny.copied(net), scheduler=scheduler)
    words = {"prompt_embeds": tiny.tensor(2, 5, 16), "negative_prompt_embeds": tiny.tensor(2, 5, 16, seed=7)}
    return pipe, {**words, "height": 32, "width": 48, "num_frames": 5}


def latents(made: tuple, steps: int, seed: int = 0) -> torch.Tensor:
    """What the pipeline draws, [B, ...]."""
    pipe, call = made
    generator = torch.Generator().manual_seed(seed)
    return pipe(**call, num_inference_steps=steps, generator=generator, output="latents")

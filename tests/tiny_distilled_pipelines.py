"""Real pipelines of few-step models from tiny configurations with random weights, besides those of the other files.

Each function takes a scheduler and gives the pipeline and the arguments of its call, without guidance.
"""

from __future__ import annotations

import diffusers
import tiny_pipelines as tiny
import torch
from tiny_flow_pipelines import network, prompt


def sana_sprint(scheduler: object) -> tuple:
    net = network(
        "SanaTransformer2DModel", patch_size=1, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=8, sample_size=8, qk_norm="rms_norm_across_heads", guidance_embeds=True,
    )  # fmt: skip
    pipe = diffusers.SanaSprintPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=scheduler
    )
    size = {"height": 128, "width": 128, "use_resolution_binning": False}
    return pipe, {**prompt(8, "prompt_attention_mask"), **size}


def consistency_model(scheduler: object) -> tuple:
    pipe = diffusers.ConsistencyModelPipeline(unet=tiny.image_unet(), scheduler=scheduler)
    return pipe, {"batch_size": 2, "output_type": "pt"}


VIDEO = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": 16,
    "text_dim": 32, "freq_dim": 32, "ffn_dim": 32, "cross_attn_norm": True,
}  # fmt: skip


def any_flow(scheduler: object) -> tuple:
    net = network("AnyFlowTransformer3DModel", **VIDEO, rope_max_seq_len=32, gate_value=0.25, deltatime_type="r")
    pipe = diffusers.AnyFlowPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=net)
    return pipe, {**prompt(32), "height": 16, "width": 16, "num_frames": 5, "guidance_scale": 1.0}


def helios(scheduler: object, kind: str = "HeliosPipeline", **options: object) -> tuple:
    net = network(
        "HeliosTransformer3DModel", **VIDEO, qk_norm="rms_norm_across_heads", rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True, guidance_cross_attn=True, zero_history_timestep=True,
        is_amplify_history=False,
    )  # fmt: skip
    pipe = getattr(diffusers, kind)(
        tokenizer=None, text_encoder=None, vae=video_vae(), scheduler=scheduler, transformer=net, **options
    )
    return pipe, {**prompt(32), "height": 64, "width": 64, "num_frames": 9, "guidance_scale": 1.0}


@tiny.same_weights
def video_vae() -> torch.nn.Module:
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def helios_pyramid(scheduler: object) -> tuple:
    pipe, arguments = helios(scheduler, "HeliosPyramidPipeline")
    return pipe, {**arguments, "pyramid_num_inference_steps_list": [2, 2, 3]}


def helios_distilled(scheduler: object) -> tuple:
    pipe, arguments = helios(scheduler, "HeliosPyramidPipeline", is_distilled=True)
    return pipe, {**arguments, "pyramid_num_inference_steps_list": [2, 2, 2]}

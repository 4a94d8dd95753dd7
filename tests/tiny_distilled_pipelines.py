"""Real pipelines of few-step models from tiny configurations with random weights, besides those of the other files.

Each function takes a scheduler and gives the pipeline and the arguments of its call, without guidance.
"""

from __future__ import annotations

from types import SimpleNamespace

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
    return pipe, {
        **prompt(32),
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "guidance_scale": 1.0,
        "num_latent_frames_per_chunk": 2,
    }


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


class Frames(torch.nn.Module):
    """Stands in for Kandinsky 6's autoencoder: every pixel block's mean, thrice."""

    spatial_compression_ratio, temporal_compression_ratio = 16, 4
    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, video: torch.Tensor, return_dict: bool = False) -> tuple:
        latents = torch.nn.functional.avg_pool3d(video[:, :, ::4], (1, 16, 16)).repeat(1, 2, 1, 1, 1)[:, :4]
        return (SimpleNamespace(mode=lambda: latents),)

    def decode(self, latents: torch.Tensor, return_dict: bool = False) -> tuple:
        video = latents[:, :3].repeat_interleave(16, -1).repeat_interleave(16, -2)
        return (video.repeat_interleave(4, 2)[:, :, 3:],)


class Velocities(torch.nn.Module):
    """Stands in for Kandinsky 6's network, whose attention is flex_attention: ten velocities beside one another."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(tile_sizes=((64, 64),))

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, return_dict: bool = False) -> tuple:
        x = hidden_states[..., :4] + timestep.view(-1, 1, 1, 1, 1) / 1000
        return (torch.cat([torch.sin(x + 0.1 * k) for k in range(10)], dim=-1),)


def super_resolution(scheduler: object) -> tuple:
    pipe = diffusers.Kandinsky6SRPipeline(transformer=Velocities(), vae=Frames(), scheduler=scheduler)
    video = torch.rand(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    return pipe, {"video": video, "resolution_scale": 2, "output_type": "pt"}


class Structures(torch.nn.Module):
    """Stands in for RFD4-Proteina's network and its autoencoder, which need some thirty features of a preprocessor."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(latent_dim=8, feats_seq=())

    def forward(self, bb_ca: torch.Tensor, local_latents: torch.Tensor, bb_ca_time: torch.Tensor, **told: object):
        backbone, latents = (torch.sin(2 * x + bb_ca_time[:, None, None]) for x in (bb_ca, local_latents))
        logits = torch.zeros(*bb_ca.shape[:2], 4)
        return SimpleNamespace(backbone=backbone, local_latents=latents, sequence_logits=logits, insertion_logits=None)

    def decode(self, ca_coors_nm: torch.Tensor, padding_mask: torch.Tensor, **told: object) -> SimpleNamespace:
        kinds = torch.zeros(padding_mask.shape, dtype=torch.int64)
        atoms = torch.ones(*padding_mask.shape, 37, dtype=torch.bool)
        coordinates = ca_coors_nm[..., None, :].repeat(1, 1, 37, 1)
        return SimpleNamespace(emit_mask=padding_mask, coordinates=coordinates, residue_type=kinds, atom_mask=atoms)


def structures(backbone: object, latents: object) -> tuple:
    pipe = diffusers.RFD4ProteinaPipeline(
        transformer=Structures(), vae=Structures(), bb_ca_scheduler=backbone, local_latents_scheduler=latents,
        recycle_depths=[1] * 6,
    )  # fmt: skip
    all_of, none = torch.ones(2, 7, dtype=torch.bool), torch.zeros(2, 7, dtype=torch.bool)
    features = {"molecule_iid": torch.zeros(2, 7), "condition_sequence_1_residue": torch.zeros(2, 7, dtype=torch.int64)}
    return pipe, {
        "padding_mask": all_of, "is_in_context_conditioning": none, "supports_local_latent": all_of,
        "conditioning_features": features,
    }  # fmt: skip

"""Real pipelines of diffusers, besides those of `tiny_pipelines`, whose schedulers are their own: tiny random networks.

Each function takes a scheduler and gives the pipeline and the arguments of its call.
"""

from __future__ import annotations

import diffusers
import tiny_pipelines as tiny
import torch
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from torch import nn

WORDS, WIDTH = 4, 8


@tiny.same_weights
def network(kind: type, *arguments: object, **options: object) -> nn.Module:
    return kind(*arguments, **options)


def cogvideox(scheduler: object) -> tuple:
    net = network(
        diffusers.CogVideoXTransformer3DModel, num_attention_heads=4, attention_head_dim=8, in_channels=4,
        out_channels=4, time_embed_dim=2, text_embed_dim=WIDTH, num_layers=1, sample_width=2, sample_height=2,
        sample_frames=9, max_text_seq_length=WORDS,
    )  # fmt: skip
    vae = network(
        diffusers.AutoencoderKLCogVideoX, block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1,
        norm_num_groups=2,
    )  # fmt: skip
    pipe = diffusers.CogVideoXPipeline(None, None, vae=vae, transformer=net, scheduler=scheduler)
    words = {
        "prompt_embeds": tiny.tensor(2, WORDS, WIDTH),
        "negative_prompt_embeds": tiny.tensor(2, WORDS, WIDTH, seed=2),
    }
    return pipe, {**words, "height": 16, "width": 16, "num_frames": 9, "guidance_scale": 3.0, "output_type": "latent"}


@tiny.same_weights
def oobleck() -> nn.Module:
    return diffusers.AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip


def stable_audio(scheduler: object) -> tuple:
    net = network(
        diffusers.StableAudioDiTModel, sample_size=4, in_channels=3, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4,
    )  # fmt: skip
    vae = oobleck()
    projection = network(
        StableAudioProjectionModel, text_encoder_dim=WIDTH, conditioning_dim=4, min_value=0, max_value=9
    )
    pipe = diffusers.StableAudioPipeline(vae, None, projection, None, net, scheduler)
    words = {
        "prompt_embeds": tiny.tensor(1, WORDS, WIDTH),
        "negative_prompt_embeds": tiny.tensor(1, WORDS, WIDTH, seed=2),
    }
    masks = dict.fromkeys(("attention_mask", "negative_attention_mask"), torch.ones(1, WORDS, dtype=torch.int64))
    return pipe, {**words, **masks, "guidance_scale": 3.0, "output_type": "latent"}


def kandinsky_prior(scheduler: object) -> tuple:
    """Its prompts are encoded already."""
    net = network(
        diffusers.PriorTransformer, num_attention_heads=2, attention_head_dim=4, embedding_dim=WIDTH, num_layers=1,
        num_embeddings=WORDS, additional_embeddings=4,
    )  # fmt: skip
    net.clip_std = nn.Parameter(torch.ones_like(net.clip_std))
    pipe = diffusers.KandinskyV22PriorPipeline(net, None, None, None, scheduler, None)
    pipe._encode_prompt = lambda *args, **options: (
        tiny.tensor(2, WIDTH), tiny.tensor(2, WORDS, WIDTH, seed=2), torch.ones(2, WORDS, dtype=torch.bool)
    )  # fmt: skip
    pipe.get_zero_embed = lambda *args, **options: torch.zeros(1, WIDTH)
    return pipe, {"prompt": "a cat", "guidance_scale": 3.0, "output_type": "pt"}


def wuerstchen_prior(scheduler: object) -> tuple:
    net = network(WuerstchenPrior, c_in=2, c=8, c_cond=WIDTH, c_r=4, depth=1, nhead=2, dropout=0.0)
    pipe = diffusers.WuerstchenPriorPipeline(None, tiny.text_encoder(30), net, scheduler)
    words = {
        "prompt_embeds": tiny.tensor(1, WORDS, WIDTH),
        "negative_prompt_embeds": tiny.tensor(1, WORDS, WIDTH, seed=2),
    }
    return pipe, {**words, "height": 256, "width": 256, "guidance_scale": 2.0}


def repaint(scheduler: object) -> tuple:
    pipe = diffusers.RePaintPipeline(tiny.image_unet(), scheduler)
    mask = torch.ones(2, 1, 16, 16)
    mask[..., 4:] = 0.0
    more = {"eta": 0.7, "jump_length": 2, "jump_n_sample": 2}
    return pipe, {"image": 2 * tiny.picture() - 1, "mask_image": mask, **more, "output_type": "np"}


def karras_ve(scheduler: object) -> tuple:
    return diffusers.KarrasVePipeline(tiny.image_unet(), scheduler), {"batch_size": 2, "output_type": "np"}


def score_sde_ve(scheduler: object) -> tuple:
    return diffusers.ScoreSdeVePipeline(tiny.image_unet(), scheduler), {"batch_size": 2, "output_type": "np"}


def paradigms(scheduler: object) -> tuple:
    """Many of a run's times at once."""
    pipe = tiny.stable_diffusion(scheduler, "StableDiffusionParadigmsPipeline")
    return pipe, {**tiny.prompt(), "height": 16, "width": 16, "parallel": 3, "output_type": "latent"}

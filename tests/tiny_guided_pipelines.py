"""Real pipelines of diffusers from tiny configurations with random weights, each with the guidance that it knows.

Each function gives the pipeline, with the kind of scheduler that it ships with, and the arguments of its call for two
prompts. Text encoders are left out: prompts come encoded.
"""

from __future__ import annotations

import diffusers
import tiny_flow_pipelines as flow
import tiny_pipelines as tiny
import torch
import transformers
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from torch import Tensor, nn

WORDS = 5
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def words(width: int, *masks: str, **others: int) -> dict[str, Tensor]:
    """Prompts and negative ones, already encoded. others: further embeddings, by the name and width."""
    found = {}
    for k, (name, size) in enumerate((("prompt_embeds", width), *others.items())):
        shape = (2, WORDS, size) if k == 0 else (2, size)
        found |= {name: tiny.tensor(*shape, seed=5 + k), f"negative_{name}": tiny.tensor(*shape, seed=15 + k)}
    mask = torch.tensor([[1] * WORDS, [1] * (WORDS - 1) + [0]])
    return found | {f"{sign}{name}": mask for name in masks for sign in ("", "negative_")}


def flow_euler(**options: object) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def vp_euler(**options: object) -> diffusers.EulerDiscreteScheduler:
    """Of those that begin with sqrt(sigma^2 + 1) times the noise, as the mathematics has it."""
    return diffusers.EulerDiscreteScheduler(**{**SD, "timestep_spacing": "leading", **options})


def stable_diffusion() -> tuple:
    return tiny.prompt_to_image(vp_euler())


def stable_diffusion_xl() -> tuple:
    pipe, call = tiny.sdxl(vp_euler())
    return pipe, {**call, "guidance_rescale": 0.7, "output_type": "pt"}


def playground() -> tuple:
    """A preconditioned network, as Playground v2.5 has it."""
    pipe, call = tiny.sdxl(diffusers.EDMEulerScheduler(prediction_type="epsilon"))
    return pipe, {**call, "guidance_scale": 3.0}


def stable_diffusion_3() -> tuple:
    pipe, call = tiny.sd3(flow_euler(shift=3.0))
    return pipe, {**call, "output_type": "pt"}


def pixart() -> tuple:
    return tiny.pixart(vp_euler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02))


def flux() -> tuple:
    """Its own guidance is an input of the network; true guidance is beside it."""
    net = tiny.transformer(
        "FluxTransformer2DModel", in_channels=16, num_single_layers=1, joint_attention_dim=tiny.WIDTH,
        pooled_projection_dim=tiny.WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    missing = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(
        transformer=net, vae=tiny.latent_vae(shift_factor=0.1), scheduler=flow_euler(use_dynamic_shifting=True),
        **missing,
    )  # fmt: skip
    size = {"height": 16, "width": 16, "true_cfg_scale": 3.0, "output_type": "pt"}
    return pipe, {**tiny.prompt(pooled=True), **size}


def flux_2() -> tuple:
    net = flow.network(
        "Flux2Transformer2DModel", patch_size=1, in_channels=4, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    pipe = diffusers.Flux2Pipeline(
        transformer=net, vae=None, text_encoder=None, tokenizer=None, scheduler=flow_euler(use_dynamic_shifting=True)
    )
    given = {"prompt_embeds": tiny.tensor(2, WORDS, 16), "height": 32, "width": 32, "output_type": "latent"}
    return pipe, given


def qwen_image() -> tuple:
    pipe, call = flow.qwen_image(flow_euler(use_dynamic_shifting=True, shift_terminal=0.02))
    return pipe, {**call, **words(16, "prompt_embeds_mask"), "true_cfg_scale": 3.0}


def z_image() -> tuple:
    pipe = diffusers.ZImagePipeline(
        scheduler=flow_euler(shift=3.0), vae=tiny.latent_vae(shift_factor=0.1, latent_channels=16), text_encoder=None,
        tokenizer=None, transformer=z_image_network(),
    )  # fmt: skip
    lists = {name: [value[0], value[1, :-1]] for name, value in words(16).items()}
    return pipe, {**lists, "height": 32, "width": 32, "guidance_scale": 3.0, "output_type": "pt"}


@tiny.same_weights
def z_image_network() -> nn.Module:
    net = diffusers.ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    for token in (net.x_pad_token, net.cap_pad_token):  # which nothing initialises
        nn.init.ones_(token)
    return net


def sana() -> tuple:
    pipe, call = flow.sana(
        diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", solver_order=1
        )
    )
    return pipe, {**call, **words(8, "prompt_attention_mask"), "negative_prompt": None, "guidance_scale": 3.0}


def wan() -> tuple:
    """Wan 2.2: one network for much noise, another one for little, each with its guidance."""
    pipe, call = flow.wan(
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", solver_order=1,
            disable_corrector=list(range(100)),
        )
    )  # fmt: skip
    net = tiny.copied(pipe.transformer)
    with torch.no_grad():
        net.proj_out.weight.mul_(-0.5)
    pipe.register_modules(transformer_2=net)
    pipe.register_to_config(boundary_ratio=0.875)
    return pipe, {**call, **words(16), "guidance_scale": 4.0, "guidance_scale_2": 3.0}


def ltx() -> tuple:
    pipe, call = flow.ltx(flow_euler(use_dynamic_shifting=True, shift_terminal=0.1))
    return pipe, {**call, **words(16, "prompt_attention_mask"), "guidance_scale": 3.0, "guidance_rescale": 0.5}


@tiny.same_weights
def ltx_vae() -> nn.Module:
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1,) * 4,
        timestep_conditioning=True, patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip


def hunyuan_video() -> tuple:
    net = flow.network(
        "HunyuanVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    missing = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"))
    pipe = diffusers.HunyuanVideoPipeline(transformer=net, scheduler=flow_euler(shift=7.0), **missing)
    given = words(16, "prompt_attention_mask", pooled_prompt_embeds=8)
    size = {"height": 16, "width": 16, "num_frames": 5, "true_cfg_scale": 3.0, "output_type": "latent"}
    return pipe, {**given, **size}


def cogvideox() -> tuple:
    net = flow.network(
        "CogVideoXTransformer3DModel", num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=8, text_embed_dim=16, sample_width=2, sample_height=2, sample_frames=9,
        max_text_seq_length=WORDS,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, timestep_spacing="trailing"
    )
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=scheduler
    )
    size = {"height": 16, "width": 16, "num_frames": 9, "output_type": "latent", "max_sequence_length": WORDS}
    return pipe, {**words(16), **size}


def stable_audio() -> tuple:
    net = flow.network(
        "StableAudioDiTModel", sample_size=4, in_channels=3, out_channels=3, attention_head_dim=4,
        num_attention_heads=4, num_key_value_attention_heads=2, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4,
    )  # fmt: skip
    pipe = diffusers.StableAudioPipeline(
        vae=oobleck(), text_encoder=None, projection_model=projection(), tokenizer=None, transformer=net,
        scheduler=diffusers.CosineDPMSolverMultistepScheduler(solver_order=1),
    )  # fmt: skip
    masks = dict.fromkeys(("attention_mask", "negative_attention_mask"), torch.ones(2, WORDS, dtype=torch.int64))
    return pipe, {**words(4), **masks, "audio_end_in_s": 2.0, "output_type": "pt"}


@tiny.same_weights
def oobleck() -> nn.Module:
    return diffusers.AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip


@tiny.same_weights
def projection() -> nn.Module:
    return StableAudioProjectionModel(text_encoder_dim=4, conditioning_dim=4, min_value=0, max_value=32)


def audioldm2() -> tuple:
    pipe = diffusers.AudioLDM2Pipeline(
        vae=spectrum_vae(), text_encoder=None, text_encoder_2=t5(), projection_model=None, language_model=gpt2(),
        tokenizer=None, tokenizer_2=None, feature_extractor=None, unet=audio_unet(), vocoder=vocoder(),
        scheduler=diffusers.DDIMScheduler(**SD, clip_sample=False),
    )  # fmt: skip
    given = words(16)
    others = {
        f"{sign}generated_prompt_embeds": tiny.tensor(2, 4, 16, seed=k) for k, sign in enumerate(("", "negative_"))
    }
    masks = dict.fromkeys(("attention_mask", "negative_attention_mask"), torch.ones(2, WORDS, dtype=torch.int64))
    return pipe, {**given, **others, **masks, "audio_length_in_s": 0.002, "output_type": "pt"}


@tiny.same_weights
def t5() -> nn.Module:
    """The pipeline asks what kind it is."""
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=8, d_model=8, d_ff=8, d_kv=8, num_heads=1, num_layers=1)
    )


@tiny.same_weights
def gpt2() -> nn.Module:
    """The pipeline asks for its dtype."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=8))


@tiny.same_weights
def audio_unet() -> nn.Module:
    return diffusers.AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, sample_size=32, in_channels=4,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=((16, 16), (16, 16)),
    )  # fmt: skip


@tiny.same_weights
def spectrum_vae() -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), in_channels=1, out_channels=1, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


@tiny.same_weights
def vocoder() -> nn.Module:
    return transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16000, upsample_initial_channel=16, upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3, 7], resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )  # fmt: skip


PIPELINES = (
    stable_diffusion, stable_diffusion_xl, playground, stable_diffusion_3, pixart, flux, flux_2, qwen_image, z_image,
    sana, wan, ltx, hunyuan_video, cogvideox, stable_audio, audioldm2,
)  # fmt: skip

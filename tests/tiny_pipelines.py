"""Real diffusers pipelines from tiny configurations with random weights: nothing is downloaded.

Each function of `PIPELINES` takes a scheduler and gives the pipeline and the arguments that its call needs besides
`num_inference_steps` and `generator`. Weights are the same in every call.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import diffusers
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

LAYERS, WIDTH, TOKENS = (32, 64), 16, 12
STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False,
    "set_alpha_to_one": False,
}  # fmt: skip


def same_weights(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Built once, from its own seed."""

    @functools.cache
    def built(*arguments: object, **options: object) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build(*arguments, **options).eval()

    return built


def copied(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One that a test may change."""
    return copy.deepcopy(module).to(dtype)


def tensor(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@same_weights
def latent_vae(**options: object) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=LAYERS, layers_per_block=1, norm_num_groups=8, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **{"latent_channels": 4, **options},
    )  # fmt: skip


@same_weights
def text_unet(**options: object) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        block_out_channels=LAYERS, layers_per_block=1, sample_size=8, norm_num_groups=8, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"in_channels": 4, "cross_attention_dim": WIDTH, "attention_head_dim": 4, **options},
    )  # fmt: skip


@same_weights
def image_unet(channels: int = 3) -> diffusers.UNet2DModel:
    return diffusers.UNet2DModel(
        block_out_channels=LAYERS, layers_per_block=1, sample_size=16, norm_num_groups=8, in_channels=channels,
        out_channels=channels, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


@same_weights
def transformer(kind: str, **options: object) -> nn.Module:
    given = {"num_layers": 1, "attention_head_dim": 16, **options}
    return getattr(diffusers, kind)(num_attention_heads=2, **given)


def prompt(*, pooled: bool = False) -> dict[str, Tensor]:
    """Two prompts, already encoded."""
    names = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds") if pooled else ()
    words = {"prompt_embeds": tensor(2, TOKENS, WIDTH), "negative_prompt_embeds": tensor(2, TOKENS, WIDTH, seed=2)}
    return words | {name: tensor(2, WIDTH, seed=3 + k) for k, name in enumerate(names)}


def picture() -> Tensor:
    return torch.sigmoid(tensor(2, 3, 16, 16, seed=5))


def stable_diffusion(scheduler: object, kind: str = "StableDiffusionPipeline", **unet: object) -> object:
    return getattr(diffusers, kind)(
        vae=latent_vae(), text_encoder=None, tokenizer=None, unet=text_unet(**unet), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def text_to_image(scheduler: object) -> tuple:
    return stable_diffusion(scheduler), {**prompt(), "output_type": "latent"}


def prompt_to_image(scheduler: object) -> tuple:
    """With a text encoder and a tokenizer of its own: every byte is a word."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    pipe = stable_diffusion(scheduler)
    pipe.register_modules(
        text_encoder=text_encoder(len(words)),
        tokenizer=transformers.CLIPTokenizer(
            vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS
        ),
    )
    return pipe, {"prompt": ["a cat", "hills"], "negative_prompt": ["", "blurred"], "output_type": "pt"}


@same_weights
def text_encoder(words: int) -> transformers.CLIPTextModel:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=words, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=TOKENS, bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1,
        )
    )  # fmt: skip


def image_to_image(scheduler: object) -> tuple:
    pipe = stable_diffusion(scheduler, "StableDiffusionImg2ImgPipeline")
    return pipe, {**prompt(), "image": picture(), "strength": 0.7, "output_type": "latent"}


def inpainting(scheduler: object) -> tuple:
    pipe = stable_diffusion(scheduler, "StableDiffusionInpaintPipeline")
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 4:] = 1.0
    image = {"image": picture(), "mask_image": mask, "height": 16, "width": 16, "strength": 0.8}
    return pipe, {**prompt(), **image, "output_type": "latent"}


def inversion(scheduler: object) -> tuple:
    """Called by `pipe.invert`."""
    pipe = diffusers.StableDiffusionDiffEditPipeline(
        vae=latent_vae(), text_encoder=None, tokenizer=None, unet=text_unet(),
        scheduler=diffusers.DDIMScheduler(**STABLE_DIFFUSION), inverse_scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipe, {**prompt(), "image": picture(), "inpaint_strength": 1.0}


def sdxl(scheduler: object) -> tuple:
    unet = text_unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + WIDTH, use_linear_projection=True,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=latent_vae(), text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=scheduler, force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    return pipe, {**prompt(pooled=True), "output_type": "latent"}


def sd3(scheduler: object) -> tuple:
    net = transformer(
        "SD3Transformer2DModel", sample_size=8, in_channels=4, out_channels=4, joint_attention_dim=WIDTH,
        caption_projection_dim=32, pooled_projection_dim=WIDTH, pos_embed_max_size=8,
    )  # fmt: skip
    missing = dict.fromkeys(f"{part}{k}" for part in ("text_encoder", "tokenizer") for k in ("", "_2", "_3"))
    vae = latent_vae(shift_factor=0.1)
    pipe = diffusers.StableDiffusion3Pipeline(transformer=net, vae=vae, scheduler=scheduler, **missing)
    return pipe, {**prompt(pooled=True), "height": 16, "width": 16, "output_type": "latent"}


def flux(scheduler: object, layers: int = 1) -> tuple:
    net = transformer(
        "FluxTransformer2DModel", in_channels=16, num_layers=layers, num_single_layers=layers,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    missing = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(transformer=net, vae=latent_vae(shift_factor=0.1), scheduler=scheduler, **missing)
    words = {name: value for name, value in prompt(pooled=True).items() if not name.startswith("negative")}
    return pipe, {**words, "height": 16, "width": 16, "output_type": "latent"}


def pixart(scheduler: object) -> tuple:
    net = transformer(
        "PixArtTransformer2DModel", in_channels=4, out_channels=8, sample_size=8, cross_attention_dim=32,
        caption_channels=WIDTH, use_additional_conditions=False, norm_num_groups=4,
    )  # fmt: skip
    pipe = diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=latent_vae(), transformer=net, scheduler=scheduler
    )
    masks = dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(2, TOKENS))
    size = {"height": 16, "width": 16, "use_resolution_binning": False}
    return pipe, {**prompt(), **masks, **size, "negative_prompt": None, "output_type": "latent"}


def dit(scheduler: object) -> tuple:
    net = transformer("DiTTransformer2DModel", in_channels=4, out_channels=8, sample_size=8, norm_num_groups=4)
    pipe = diffusers.DiTPipeline(transformer=net, vae=latent_vae(), scheduler=scheduler)
    return pipe, {"class_labels": [3, 7], "output_type": "pt"}


def ddpm(scheduler: object) -> tuple:
    return diffusers.DDPMPipeline(image_unet(), scheduler), {"batch_size": 2, "output_type": "np"}


def ddim(scheduler: object) -> tuple:
    pipe = diffusers.DDIMPipeline(image_unet(), diffusers.DDIMScheduler())
    pipe.scheduler = scheduler  # the pipeline's own __init__ makes a diffusers.DDIMScheduler of what it is given
    return pipe, {"batch_size": 2, "output_type": "np"}


def ldm(scheduler: object) -> tuple:
    """With a continuous decoder: a codebook makes another code of a rounding error."""
    pipe = diffusers.LDMPipeline(vqvae=latent_vae(), unet=image_unet(4), scheduler=scheduler)
    return pipe, {"batch_size": 2, "output_type": "np"}


def ldm_text_to_image(scheduler: object) -> tuple:
    """With LDM's own text encoder, and a tokenizer of words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "hills"]
    pipe = diffusers.LDMTextToImagePipeline(
        vqvae=latent_vae(), bert=bert(len(words)), unet=text_unet(), scheduler=scheduler,
        tokenizer=transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=77),
    )  # fmt: skip
    return pipe, {"prompt": ["a cat", "hills"], "height": 64, "width": 64, "guidance_scale": 3.0, "output_type": "np"}


@same_weights
def bert(words: int) -> nn.Module:
    config = LDMBertConfig(
        vocab_size=words, encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2, head_dim=8, d_model=WIDTH
    )
    return LDMBertModel(config)


def latent_consistency(scheduler: object) -> tuple:
    pipe = diffusers.LatentConsistencyModelPipeline(
        vae=latent_vae(), text_encoder=None, tokenizer=None, unet=text_unet(time_cond_proj_dim=32),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipe, {"prompt_embeds": prompt()["prompt_embeds"], "output_type": "latent"}


def last_latents(pipe: object, call: dict[str, object], seed: int) -> Tensor:
    """What is left after the last step of a call."""
    kept = []

    def keep(pipe: object, i: int, t: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.append(given["latents"])
        return given

    pipe.set_progress_bar_config(disable=True)
    pipe(**{"callback_on_step_end": keep, **call}, generator=torch.Generator().manual_seed(seed))
    return kept[-1]


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[dict[str, object]]]:
    """The arguments of every call of a module, by name."""
    calls, signature = [], inspect.signature(module.forward)

    def keep(module: nn.Module, args: tuple, kwargs: dict[str, object]) -> None:
        calls.append(signature.bind(*args, **kwargs).arguments)

    hook = module.register_forward_pre_hook(keep, with_kwargs=True)
    yield calls
    hook.remove()

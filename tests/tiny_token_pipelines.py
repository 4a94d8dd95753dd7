"""Real pipelines of diffusers over tokens, with tiny random networks.

Each function takes a scheduler and gives the pipeline and the arguments of its call.
"""

from __future__ import annotations

import diffusers
import tiny_pipelines as tiny
import torch
import transformers
from tiny_other_pipelines import WIDTH, WORDS, network

VOCABULARY, MASK, EOS = 48, 47, 46
CLASSES, SIDE = 16, 4  # of images of tokens


def sure(net: torch.nn.Module, head: torch.nn.Module) -> torch.nn.Module:
    """Logits wide enough that some tokens are sure and others are not."""
    with torch.no_grad():
        head.weight.mul_(20)
        net.get_input_embeddings().weight.mul_(20)
    return net


@tiny.same_weights
def bert() -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        tie_word_embeddings=False,
    )  # fmt: skip
    net = transformers.BertForMaskedLM(config)
    return sure(net, net.cls.predictions.decoder)


def llada2(scheduler: object) -> tuple:
    """Two prompts, infilled by blocks; the model gives `.logits`."""
    pipe = diffusers.LLaDA2Pipeline(tiny.copied(bert()), scheduler)
    prompt = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])
    lengths = {"gen_length": 19, "block_length": 8, "num_inference_steps": 4}
    return pipe, {"input_ids": prompt, "mask_token_id": MASK, "eos_token_id": EOS, "output_type": "seq", **lengths}


@tiny.same_weights
def gemma() -> torch.nn.Module:
    small = {
        "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "global_head_dim": 8,
    }  # fmt: skip
    text = {
        **small, "vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 64, "sliding_window": 16,
        "num_experts": 2, "top_k_experts": 1, "moe_intermediate_size": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    config = transformers.DiffusionGemmaConfig(
        text_config=text, vision_config={**small, "num_hidden_layers": 1}, canvas_length=8
    )
    net = transformers.DiffusionGemmaForBlockDiffusion(config)
    decoder, make = net.model.decoder, net.model.decoder.create_diffusion_decoder_attention_mask

    def mask(*, past_key_values: object = None, cache: object = None, **options: object) -> object:
        return make(cache=past_key_values if cache is None else cache, **options)

    decoder.create_diffusion_decoder_attention_mask = mask  # transformers 5.24 has renamed what diffusers 0.42 passes
    return net


class Processor:
    """Every prompt is the same five tokens."""

    eos_token_id = EOS

    def apply_chat_template(self, messages: list, **options: object) -> dict:
        return {"input_ids": torch.arange(3, 8).expand(len(messages), -1)}


def diffusion_gemma(scheduler: object) -> tuple:
    pipe = diffusers.DiffusionGemmaPipeline(gemma(), scheduler, Processor())
    steps = {"gen_length": 16, "num_inference_steps": 5, "confidence_threshold": None, "eos_early_stop": False}
    return pipe, {"prompt": ["a cat", "hills"], "output_type": "seq", **steps}


def amused(scheduler: object) -> tuple:
    net = network(
        diffusers.UVit2DModel, hidden_size=WIDTH, cond_embed_dim=WIDTH, encoder_hidden_size=WIDTH,
        codebook_size=CLASSES, vocab_size=CLASSES + 1, micro_cond_encode_dim=2, micro_cond_embed_dim=10,
        sample_size=SIDE, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, block_out_channels=WIDTH,
        in_channels=WIDTH, block_num_heads=1, num_res_blocks=1, use_bias=False,
    )  # fmt: skip
    vae = network(diffusers.VQModel, num_vq_embeddings=CLASSES)
    pipe = diffusers.AmusedPipeline(vae, None, None, net, scheduler)
    words = {"prompt_embeds": tiny.tensor(2, WIDTH), "encoder_hidden_states": tiny.tensor(2, WORDS, WIDTH)}
    size = {"height": SIDE, "width": SIDE}
    others = {f"negative_{name}": -value for name, value in words.items()}
    return pipe, {**words, **others, **size, "num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"}


def vq_diffusion(scheduler: object) -> tuple:
    """Its prompts are encoded already; the callback has the tokens."""
    from diffusers.pipelines.deprecated.vq_diffusion import VQDiffusionPipeline
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        LearnedClassifierFreeSamplingEmbeddings,
    )

    net = network(
        diffusers.Transformer2DModel, attention_head_dim=8, num_attention_heads=1, num_vector_embeds=CLASSES + 1,
        cross_attention_dim=WIDTH, sample_size=SIDE, num_layers=1, norm_type="ada_norm", num_embeds_ada_norm=6,
        activation_fn="geglu-approximate", attention_bias=True,
    )  # fmt: skip
    vae = network(diffusers.VQModel, num_vq_embeddings=CLASSES, vq_embed_dim=3, latent_channels=3, norm_num_groups=4)
    pipe = VQDiffusionPipeline(vae, None, None, net, scheduler, LearnedClassifierFreeSamplingEmbeddings(False))
    pipe._encode_prompt = lambda *arguments, **options: torch.cat([tiny.tensor(2, WORDS, WIDTH)] * 2)
    return pipe, {"prompt": ["a cat", "hills"], "num_inference_steps": 5, "output_type": "np"}

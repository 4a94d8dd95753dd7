"""diffusers' own parallelism under fastdiff, and its pipelines on two processes; part of `bench.ranks`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, WanTransformer3DModel
from torch import Tensor

import fastdiff as fd

from .markdown import number, table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # tiny pipelines

DEGREES = {"Ulysses": {"ulysses_degree": 2}, "ring": {"ring_degree": 2}}


def wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()  # fmt: skip


def draw(network: WanTransformer3DModel) -> Tensor:
    """A guided stochastic run. Each process has whole latents: the network divides its tokens inside."""
    generator = torch.Generator().manual_seed(1)
    text, other = torch.randn(2, 1, 6, 16, generator=generator)
    plan = fd.plan("dpmpp_2m_sde", fd.Schedule.flow(), 4, prediction="flow_prediction")
    guidance = fd.guidance.APG(5.0, norm=2.0, momentum=-0.5)
    return fd.sample(
        network, plan, fd.noise.randn((1, 4, 3, 8, 8), seeds=[5]), seeds=[5], guidance=guidance, threshold=0.99,
        uncond={"encoder_hidden_states": other}, encoder_hidden_states=text, guidance_mode="calls", return_dict=False,
    )  # fmt: skip


def context_parallel() -> str:
    """A tiny Wan, `enable_parallelism(config=ContextParallelConfig(...))` of two processes, attention "native"."""
    alone, rows = draw(wan()), []
    count = torch.accelerator.device_count
    for devices in ("as it is", "told of one device"):
        torch.accelerator.device_count = count if devices == "as it is" else lambda: 1
        for name, degree in DEGREES.items():
            rows.append((name, devices, _tried(alone, degree)))
    torch.accelerator.device_count = count
    return f"diffusers {diffusers.__version__}.\n\n" + table(
        ("attention", "torch.accelerator.device_count", "what"), rows
    )


def _tried(alone: Tensor, degree: dict[str, int]) -> str:
    try:
        network = wan()
        network.set_attention_backend("native")
        network.enable_parallelism(config=ContextParallelConfig(**degree))
        drawn = draw(network)
    except Exception as error:  # what it says is the result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    every: list[Any] = [torch.empty_like(drawn) for _ in range(dist.get_world_size())]
    dist.all_gather(every, drawn)
    assert all(torch.equal(each, drawn) for each in every)
    return f"runs; largest difference from one process {number(float((drawn - alone).abs().max()))}"


def pipeline() -> str:
    """Stable Diffusion of random weights, guidance 5, 6 steps: `fd.split_batch(pipe.unet)` and the pipeline alone."""
    from tiny_pipelines import prompt, stable_diffusion

    pipe = stable_diffusion(diffusers.DPMSolverMultistepScheduler())
    pipe.set_progress_bar_config(disable=True)
    call = {**prompt(), "guidance_scale": 5.0, "output_type": "latent", "num_inference_steps": 6}

    def image() -> Tensor:
        return pipe(**call, generator=torch.Generator().manual_seed(3)).images

    alone = image()
    with fd.split_batch(pipe.unet):
        together = image()
    difference = number(float((together - alone).abs().max() / alone.abs().max()))
    words = torch.cat([call["prompt_embeds"], call["negative_prompt_embeds"]])
    d = fd.pipelines.denoiser(pipe, prompt_embeds=words, guidance_scale=1.0, num_inference_steps=6)
    plan = fd.plan("dpmpp_2m", d.schedule, 6)
    given = {"which": torch.tensor([0, 1]), "uncond": {"which": torch.tensor([2, 3])}, "guidance": 5.0}
    drawn = [
        fd.sample(d.model, plan, fd.noise.randn((2, *d.noise.shape[1:]), [3, 4]), guidance_mode=mode, **given)
        for mode in ("calls", "ranks")
    ]
    assert torch.equal(*drawn)
    return (
        f"Largest difference {difference} of the largest value. The same pipeline as a model, `fd.pipelines.denoiser`,"
        ' with `guidance_mode="ranks"` and "calls": the same bits.'
    )

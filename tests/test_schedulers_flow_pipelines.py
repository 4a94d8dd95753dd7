"""Whole pipelines of few-step models: with fastdiff's scheduler in place of diffusers' the samples stay the same."""

from __future__ import annotations

from types import SimpleNamespace

import diffusers
import pytest
import tiny_distilled_pipelines as tiny
import torch
from diffusers.modular_pipelines.minimax_h3.denoise import MiniMaxH3LoopSchedulerStep
from scheduler_protocols import STRUCTURES

from fastdiff import schedulers

PYRAMID = {"gamma": 0.3}  # of 1/3, diffusers' default, the pipeline's own covariance is not positive definite
ONE_STAGE = {"stage_range": [0, 1], "stages": 1, "use_dynamic_shifting": True}
CASES = [
    (tiny.sana_sprint, "SCMScheduler", {}, {"num_inference_steps": 2}),
    (tiny.consistency_model, "CMStochasticIterativeScheduler", {}, {"num_inference_steps": 3}),
    (
        tiny.consistency_model,
        "CMStochasticIterativeScheduler",
        {},
        {"timesteps": [30, 10], "num_inference_steps": None},
    ),
    (tiny.any_flow, "FlowMapEulerDiscreteScheduler", {"shift": 5.0}, {"num_inference_steps": 3}),
    (tiny.helios, "HeliosScheduler", ONE_STAGE, {"num_inference_steps": 3}),
    (tiny.helios_pyramid, "HeliosScheduler", PYRAMID, {}),
    (tiny.helios_distilled, "HeliosDMDScheduler", PYRAMID, {}),
    (tiny.super_resolution, "PiflowScheduler", {}, {"num_inference_steps": 2}),
]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.dtype == theirs.dtype
    spread = float(theirs.max() - theirs.min())
    assert spread > 0.1
    assert float((ours - theirs).abs().max()) <= tolerance * spread


@pytest.mark.parametrize(("client", "name", "config", "call"), CASES, ids=lambda part: getattr(part, "__name__", None))
def test_the_sample_stays_the_same(client, name, config, call, seed):
    samples = []
    for library in (schedulers, diffusers):
        pipe, arguments = client(getattr(library, name)(**config))
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(seed)
        samples.append(torch.as_tensor(pipe(**{**arguments, **call, "generator": generator})[0]))
    assert_same(*samples, 2e-5)


def test_structures_stay_the_same(seed):
    samples = []
    options = {**STRUCTURES, "schedule_mode": "power"}
    for library in (schedulers, diffusers):
        pair = [library.RFD4ProteinaScheduler(**{**options, "noise_mode": mode}) for mode in ("1/t", "tan")]
        pipe, arguments = tiny.structures(*pair)
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed + k) for k in range(2)]
        made = pipe(**arguments, generator=generators)
        samples.append((made.bb_ca, made.local_latents))
    for ours, theirs in zip(*samples, strict=True):
        assert_same(ours, theirs, 1e-3)  # the first step multiplies by 1 + h / t, some twenty times


def test_video_and_audio_take_their_steps_beside_each_other(seed):
    """In MiniMax-H3's own block, on the rows behind those of the conditions, one scheduler for each."""
    results = []
    for library in (schedulers, diffusers):
        torch.manual_seed(seed)
        parts = SimpleNamespace(
            scheduler=library.MiniMaxH3Scheduler(), audio_scheduler=library.MiniMaxH3Scheduler(shift=3.0)
        )
        for scheduler in vars(parts).values():
            scheduler.set_timesteps(6)
        state = SimpleNamespace(
            num_condition_video_rows=2, num_condition_audio_rows=1, latents=torch.randn(7, 4),
            audio_latents=torch.randn(5, 3), audio_timesteps=parts.audio_scheduler.timesteps,
        )  # fmt: skip
        for i, t in enumerate(parts.scheduler.timesteps):
            state.noise_pred, state.audio_noise_pred = torch.sin(state.latents)[None], -state.audio_latents[None]
            MiniMaxH3LoopSchedulerStep()(parts, state, i, t)
        results.append((state.latents, state.audio_latents))
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs, 2e-5)

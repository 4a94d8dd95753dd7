"""The arguments of a pipeline's call: which a denoiser takes, and what of them belongs to each sample."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..keywords import meant
from .stand_in import Refused

TEXT = re.compile(r"(negative_)?prompt(_\d)?")  # the names of texts
PLAN = "the plan says it; leave it out"
LOOP = "depends on the number of the step, which a model's call does not have; run the pipeline with PlanScheduler"
IMAGE = "begins from an image: pass fastdiff.sample(..., image=) instead"
ONE = "is 1 here; repeat the prompts instead"
REFUSED = {
    **dict.fromkeys(("timesteps", "sigmas", "eta"), PLAN),
    **dict.fromkeys(
        (
            "denoising_start", "denoising_end", "control_guidance_start", "control_guidance_end",
            "adapter_conditioning_factor", "skip_guidance_layers", "cfg_trunc_ratio", "use_dynamic_cfg",
            "enable_temporal_reasoning", "callback", "callback_on_step_end",
        ),
        LOOP,
    ),
    **dict.fromkeys(("strength", "initial_audio_waveforms"), IMAGE),
    **dict.fromkeys(("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt"), ONE),
    "return_dict": "decode returns the images alone; leave it out",
}  # fmt: skip


def check_pipeline(pipe: Any) -> None:
    """Raises TypeError or ValueError where the pipeline's loop cannot be asked for one evaluation."""
    name = type(pipe).__name__
    if not callable(pipe) or not hasattr(pipe, "scheduler") or not hasattr(pipe, "components"):
        raise TypeError(f"pipe: expected a diffusers pipeline with a scheduler, got {name}")
    parameters = inspect.signature(type(pipe).__call__).parameters
    if "num_inference_steps" not in parameters:
        raise Refused(f"pipe: {name} has no loop of num_inference_steps")
    if not hasattr(pipe, "prepare_latents"):
        raise Refused(f"pipe: {name} makes its noise inside its call, where no other x can be put in its place")
    if hasattr(pipe, "prepare_audio_latents"):
        raise Refused(f"pipe: {name} draws pictures and sound at once, two latents with a scheduler each")
    if "guidance_schedule" in parameters:
        raise Refused(f"guidance_schedule: {LOOP}")
    guider = getattr(pipe, "guider", None)
    if guider is not None and (type(guider).__name__, *_window(guider)) != ("ClassifierFreeGuidance", 0, 1):
        raise Refused(f"pipe: its guider, {type(guider).__name__}, {LOOP}")
    for part, module in pipe.components.items():
        if getattr(module, "is_cache_enabled", False):
            raise Refused(f"pipe: its {part} keeps outputs from step to step (enable_cache); disable_cache() first")
        if getattr(getattr(module, "config", None), "use_meanflow", False):
            raise Refused(f"pipe: its {part} is a flow map, which is told the next time too; see fastdiff.flow_map")


def _window(guider: Any) -> tuple[float, float]:
    return guider.config.get("start", 0.0), guider.config.get("stop", 1.0)


def check_arguments(pipe: Any, given: Mapping[str, object]) -> None:
    """Raises TypeError for names that the pipeline does not take, ValueError for what a plan or a call cannot do."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    for name, value in given.items():
        if name not in parameters:
            near = meant(name, tuple(parameters)) or ("guidance_scale" if name == "guidance" else None)
            hint = f"; did you mean {near}?" if near else ""
            raise TypeError(f"{name}: {type(pipe).__name__} has no such argument{hint}")
        default = parameters[name].default
        if name in REFUSED and value is not default and value != default:
            raise Refused(f"{name}: {REFUSED[name]}")
    network = getattr(pipe, "unet", None)
    if "mask_image" in given and network is not None and network.config.in_channels == network.config.out_channels:
        raise Refused("mask_image: is applied after each step; pass fastdiff.sample(..., image=, mask=) instead")


def for_samples(given: Mapping[str, Any], count: int, which: Sequence[int]) -> dict[str, Any]:
    """The call's arguments for the samples `which` of `count`: prompts and their embeddings are one for each.

    Raises ValueError for others that are.
    """
    found = dict(given)
    alone = isinstance(given.get("prompt"), str)
    for name, value in given.items():
        if alone and isinstance(value, str) and TEXT.fullmatch(name):
            value = [value]
        if not isinstance(value, (list, Tensor)) or (isinstance(value, Tensor) and not value.ndim):
            continue
        if len(value) == count and ("prompt" in name or "attention_mask" in name):
            found[name] = [value[i] for i in which] if isinstance(value, list) else value[list(which)]
        elif len(value) == count > 1:
            raise Refused(f"which: {name} is one for each sample, so only all samples in their order can be evaluated")
    return found

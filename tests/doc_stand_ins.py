"""What the code in the documentation runs with here: tiny models, pipelines and hosts for the real ones. No network."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path

import comfy_guiders
import deepinv_stand_ins
import diffusers
import hosts
import monai_stand_ins
import pytest
import speech_stand_ins
import tiny_modular
import torch
from tiny_pipelines import STABLE_DIFFUSION, prompt_to_image
from torch import Tensor

import fastdiff as fd
from fastdiff.comfyui import installation
from fastdiff.fitting import convergence
from fastdiff.pipelines import fit as pipeline_fit

BATCH = 4  # samples that the pages draw at once
FITTED = 32  # noises of a fit
RANK = 8  # of its head start, below the number of noises that it is fitted to
EVALUATIONS = 1200  # enough for converged samples of these


def names() -> dict[str, object]:
    """The names that a page takes for granted: models, and conditions for one of them."""
    return {
        "model": model,
        "denoiser": denoiser,
        "velocity": velocity,
        "cfm": speech_stand_ins.F5(),
        "matcha": speech_stand_ins.matcha_tts(),
        "v_model": speech_stand_ins.unit_v,
        "velocity_model": speech_stand_ins.unit_velocity,
        "patcher": comfy_guiders.Patcher(comfy_guiders.Model(hosts.EPS(), False)),
        "positive": comfy_guiders.conditioning(0.5),
        "negative": comfy_guiders.conditioning(-0.5),
        "nothing": comfy_guiders.conditioning(0.0),
        "text": torch.ones(BATCH, 3),
        "empty": torch.zeros(1, 3),
    }


def _spread(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (x.ndim - 1))


def model(x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
    """The exact noise of unit Gaussian data on Stable Diffusion's schedule, and a little of the condition."""
    sigma = torch.from_numpy(fd.Schedule.scaled_linear().sigma(t.double().numpy())).to(x)
    shift = 0.0 if context is None else _spread(context.mean(1), x)
    return _spread(sigma, x) * (x + 0.01 * shift)


def denoiser(x: Tensor, sigma: Tensor, seed: object = None) -> Tensor:
    """E[x0 | x0 + sigma eps = x] of unit Gaussian data."""
    return x / (1 + _spread(sigma, x) ** 2)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[eps - x0 | (1 - t) x0 + t eps = x] of unit Gaussian data."""
    t = _spread(t, x)
    return (2 * t - 1) / ((1 - t) ** 2 + t**2) * x


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines from configurations, small fits, and a host under ComfyUI's names."""
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(_pipeline))
    monkeypatch.setattr(diffusers.ModularPipeline, "from_pretrained", classmethod(_modular_pipeline))
    monkeypatch.setattr(convergence, "CONTESTANTS", convergence.CONTESTANTS[:1])
    monkeypatch.setattr(pipeline_fit, "fit", _small(fd.fit))
    monkeypatch.setattr(fd, "fit", _small(fd.fit))
    sampling, tables = hosts.new_host()
    comfy, package = types.ModuleType("comfy"), types.ModuleType("comfy.k_diffusion")
    tables.CFGGuider = comfy_guiders.CFGGuider
    comfy.k_diffusion, comfy.samplers, package.sampling = package, tables, sampling
    modules = {"comfy": comfy, "comfy.k_diffusion": package, "comfy.k_diffusion.sampling": sampling}
    for name, module in (modules | {"comfy.samplers": tables}).items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, module in speech_stand_ins.stable_audio_tools().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "deepinv", types.SimpleNamespace(physics=deepinv_stand_ins))
    for name, module in monai_stand_ins.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [name for name in sys.modules if name.startswith("fastdiff.hosts.monai")]:
        monkeypatch.delitem(sys.modules, name)  # it has been made for another MONAI, or for none
    for mark in installation.MARKS:  # in the folder that the commands of the pages run in
        path = Path("ComfyUI", mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if "." not in mark else path.touch()


def _pipeline(cls: type, name: str, **options: object) -> diffusers.DiffusionPipeline:
    config = {name: value for name, value in STABLE_DIFFUSION.items() if name != "clip_sample"}
    pipe, _ = prompt_to_image(diffusers.PNDMScheduler(skip_prk_steps=True, **config))
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe, cls), f"the stand-in for {name} is a {type(pipe).__name__}"
    return pipe


def _modular_pipeline(cls: type, name: str) -> diffusers.ModularPipeline:
    scheduler, guider = diffusers.EulerDiscreteScheduler(), diffusers.ClassifierFreeGuidance()
    return tiny_modular.sdxl(scheduler, guider)[0]


def _small(fit: Callable) -> Callable:
    """The fit with its first noises, loosely converged, and a budget that ends soon after."""

    @functools.wraps(fit)
    def fit_to_few(model: object, schedule: fd.Schedule, steps: int, noise: Tensor, **options: object) -> fd.Plan:
        def few(value: object) -> object:
            if isinstance(value, dict):
                return {name: few(v) for name, v in value.items()}
            return value[:FITTED] if isinstance(value, Tensor) and value.shape[:1] == noise.shape[:1] else value

        small = {name: few(value) for name, value in options.items()}
        small |= {
            "batch": FITTED,
            "tolerance": 1.0,
            "evaluations": EVALUATIONS * (1 if options.get("guidance") is None else 2),
        }
        if "head" in options:
            small["head"] = RANK
        return fit(model, schedule, steps, noise[:FITTED], **small)

    return fit_to_few

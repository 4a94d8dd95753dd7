"""Guided runs of ComfyUI for tests: a stand-in for its protocol, and ComfyUI itself, each around one tiny network."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable

import pytest
import torch
from hosts import EPS, ModelSamplingFlow
from peers import comfyui_sampling
from torch import Tensor, nn


class Network(nn.Module):
    """Any smooth network of x, t and a condition [B, T, C]; it writes down its calls. Some patches change it."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[float, float, bool]] = []  # (t, the condition's mean, whether perturbed), a call
        self.places: set[tuple[float, int]] = set()  # (the condition's mean, its place as patches know it)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, control: object = None, transformer_options: dict | None = None,
        **_: object,
    ) -> Tensor:  # fmt: skip
        replaced = (transformer_options or {}).get("patches_replace", {})
        value = context.mean((1, 2)).view(-1, *[1] * (x.ndim - 1))
        perturbed = ("middle", 0) in replaced.get("attn1", {}) or ("double_block", 1) in replaced.get("dit", {})
        self.seen += [(float(a), round(float(b), 4), perturbed) for a, b in zip(t, value.flatten(), strict=True)]
        places = (transformer_options or {}).get("cond_or_uncond", [])
        for place, values in zip(places, value.flatten().chunk(max(1, len(places))), strict=False):
            self.places |= {(round(float(one), 4), place) for one in values}
        late = 1 / (1 + t.view_as(value) / 100)
        out = torch.sin(1.3 * x + 2 * value) * (0.5 + late) + 0.4 * torch.tanh(x.roll(1, -1) + value)
        return 0.5 * out if perturbed else out


def conditioning(value: float) -> list:
    """ComfyUI's CONDITIONING; the network sees its value."""
    return [[torch.full((1, 4, 8), value), {}]]


class StandIn:
    """ComfyUI as small as can be: as much of its model, patcher, guider and sampler as guidance meets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        comfy, samplers = types.ModuleType("comfy"), types.ModuleType("comfy.samplers")
        comfy.samplers, samplers.calc_cond_batch, samplers.CFGGuider = samplers, calc_cond_batch, CFGGuider
        monkeypatch.setitem(sys.modules, "comfy", comfy)
        monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)

    guider = staticmethod(lambda patcher: CFGGuider(patcher))

    def patcher(self, flow: bool = False) -> Patcher:
        return Patcher(Model(ModelSamplingFlow() if flow else EPS(), flow))

    def run(self, guider: CFGGuider, sampler: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
        """x [B, ...] is unit noise."""
        return guider.sample(sampler, x, sigmas)


class Model(nn.Module):
    def __init__(self, model_sampling: object, flow: bool) -> None:
        super().__init__()
        self.diffusion_model, self.model_sampling, self.flow = Network(), model_sampling, flow
        self.current_patcher: Patcher | None = None

    def apply_model(self, x: Tensor, sigma: Tensor, c_crossattn: Tensor, transformer_options: dict) -> Tensor:
        s = sigma.view(-1, *[1] * (x.ndim - 1))
        given = x if self.flow else x / (s**2 + 1) ** 0.5
        times = sigma * 1000 if self.flow else sigma
        return x - s * self.diffusion_model(given, times, c_crossattn, transformer_options=transformer_options)


class Patcher:
    def __init__(self, model: Model) -> None:
        self.model, self.wrappers, self.model_options = model, {}, {"transformer_options": {}}
        self.additional_models: dict[str, list[Patcher]] = {}

    def clone(self) -> Patcher:
        other = Patcher(self.model)
        other.additional_models = {key: [p.clone() for p in each] for key, each in self.additional_models.items()}
        other.wrappers, other.model_options = copy.deepcopy(self.wrappers), copy.copy(self.model_options)
        return other

    def get_model_object(self, name: str) -> object:
        return getattr(self.model, name)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Callable) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def set_additional_models(self, key: str, models: list[Patcher]) -> None:
        self.additional_models[key] = models

    def remove_additional_models(self, key: str) -> None:
        self.additional_models.pop(key, None)

    def get_additional_models_with_key(self, key: str) -> list[Patcher]:
        return self.additional_models.get(key, [])

    def pre_run(self) -> None:
        self.model.current_patcher = self

    def cleanup(self) -> None:
        self.model.current_patcher = None

    def set_model_sampler_pre_cfg_function(self, function: Callable) -> None:
        self.model_options["sampler_pre_cfg_function"] = [function]

    def set_model_sampler_post_cfg_function(self, function: Callable) -> None:
        self.model_options["sampler_post_cfg_function"] = [function]


def calc_cond_batch(model: Model, conds: list, x: Tensor, sigma: Tensor, options: dict) -> list[Tensor]:
    assert model.current_patcher is not None
    out = []
    for place, cond in enumerate(conds):
        if cond is None:
            out.append(torch.zeros_like(x))
        else:
            context = cond[0][0].expand(len(x), -1, -1)
            transformer = {**options["transformer_options"], "cond_or_uncond": [place]}
            out.append(model.apply_model(x, sigma, context, transformer))
    return out


class CFGGuider:
    def __init__(self, patcher: Patcher) -> None:
        self.model_patcher, self.cfg, self.conds = patcher, 1.0, {}

    def inner_set_conds(self, conds: dict) -> None:
        self.conds = conds

    def set_conds(self, positive: list, negative: list) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def sample(self, sampler: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
        self.inner_model = self.model_patcher.model
        extra = {"model_options": copy.copy(self.model_patcher.model_options), "seed": 5}

        def run(guider: CFGGuider, sigmas: Tensor, extra: dict, *_: object) -> Tensor:
            return sampler(Wrapped(guider), sigmas[0] * x, sigmas, extra_args=extra, disable=True)

        for wrappers in self.model_patcher.wrappers.get("sampler_sample", {}).values():
            for wrapper in wrappers:
                run = lambda *a, inner=run, wrapper=wrapper: wrapper(inner, *a)  # noqa: E731
        self.model_patcher.pre_run()
        try:
            return run(self, sigmas, extra, None, x, None, None, True)
        finally:
            self.model_patcher.cleanup()

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict, seed: object = None) -> Tensor:
        skip = self.cfg == 1 and not model_options.get("disable_cfg1_optimization")
        conds = [self.conds["positive"], None if skip else self.conds.get("negative")]
        args = {"conds": conds, "input": x, "sigma": sigma, "model": self.inner_model, "model_options": model_options}
        calc = model_options.get("sampler_calc_cond_batch_function")
        out = calc(args) if calc else calc_cond_batch(self.inner_model, conds, x, sigma, model_options)
        for function in model_options.get("sampler_pre_cfg_function", []):
            out = function({**args, "conds_out": out, "cond_scale": self.cfg})
        y = out[1] + (out[0] - out[1]) * self.cfg
        for function in model_options.get("sampler_post_cfg_function", []):
            seen = {"denoised": y, "cond_denoised": out[0], "uncond_denoised": out[1], "cond_scale": self.cfg}
            y = function({**args, **seen})
        return y


class Wrapped:
    """What a sampler is given for its model."""

    def __init__(self, guider: CFGGuider) -> None:
        self.inner_model = guider

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: object) -> Tensor:
        return self.inner_model(x, sigma, **extra_args)


class Real:
    """ComfyUI itself, on the CPU."""

    def __init__(self) -> None:
        comfyui_sampling()
        import comfy.samplers

        self.guider = comfy.samplers.CFGGuider

    def patcher(self, flow: bool = False) -> object:
        import comfy.latent_formats
        from comfy.model_base import BaseModel, ModelType
        from comfy.model_patcher import ModelPatcher

        config = types.SimpleNamespace(
            unet_config={"disable_unet_model_creation": True}, latent_format=comfy.latent_formats.LatentFormat(),
            manual_cast_dtype=None, sampling_settings={}, memory_usage_factor=1.0,
        )  # fmt: skip
        model = BaseModel(config, ModelType.FLOW if flow else ModelType.EPS)
        model.diffusion_model = Network()
        return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

    def run(self, guider: object, sampler: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
        import comfy.samplers

        return guider.sample(
            x, torch.zeros_like(x), comfy.samplers.KSAMPLER(sampler), sigmas, disable_pbar=True, seed=5
        )

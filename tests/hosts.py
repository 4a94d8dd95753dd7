"""Stand-ins for a host of k-diffusion's samplers: its two modules, and its models with exact Gaussian data."""

from __future__ import annotations

import importlib.util
import itertools
import types
from pathlib import Path

import torch
from torch import Tensor

MEAN, STD, SHIFT = 3.843, 2.745, 3.0


class CONST:
    """ComfyUI's name for rectified flows."""

    alpha = staticmethod(lambda sigma: 1 - sigma)

    def percent_to_sigma(self, percent: float) -> float:
        return SHIFT * (1 - percent) / (1 + (SHIFT - 1) * (1 - percent))


class ModelSamplingFlow(CONST):
    pass


class EPS:
    alpha = staticmethod(torch.ones_like)


class Predictor:
    """Forge's."""

    prediction_type = "const"
    alpha = staticmethod(lambda sigma: 1 - sigma)
    percent_to_sigma = CONST.percent_to_sigma


class HostModel:
    """The exact denoiser of N(MEAN, STD^2) data as a host wraps it; `uncond` is added to the unconditional output."""

    def __init__(self, sampling: object, uncond: float = 0.0, scale: float = 1.0) -> None:
        self.sampling, self.uncond, self.scale = sampling, uncond, scale
        self.told: list[float] = []
        if isinstance(sampling, Predictor):
            self.inner_model = types.SimpleNamespace(predictor=sampling)
        else:
            patcher = types.SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)
            base = types.SimpleNamespace(model_sampling=sampling)
            self.inner_model = types.SimpleNamespace(inner_model=base, model_patcher=patcher)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, seed: object = None) -> Tensor:
        self.told.append(float(sigma[0]))
        denoised = exact(x, sigma, self.sampling.alpha(sigma))
        uncond = denoised + self.uncond
        out = uncond + self.scale * (denoised - uncond)
        for hook in (model_options or {}).get("sampler_post_cfg_function", []):
            out = hook({"denoised": out, "uncond_denoised": uncond})
        return out


def exact(x: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
    """E[x0 | alpha x0 + sigma eps = x]."""
    s, a = (v.double().view(-1, *[1] * (x.ndim - 1)) for v in (sigma, alpha))
    return (MEAN + a * STD**2 / ((a * STD) ** 2 + s**2) * (x - a * MEAN)).to(x.dtype)


def flow_levels(steps: int) -> Tensor:
    """Uniform times from 1, shifted: sigma from 1 to 0."""
    t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return (SHIFT * t / (1 + (SHIFT - 1) * t)).float()


def new_host() -> tuple[types.ModuleType, types.ModuleType]:
    """(its module of samplers, its module of their names), fresh ones at every call."""
    spec = importlib.util.spec_from_file_location("sampling", Path(__file__).with_name("stand_in_sampling.py"))
    sampling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sampling)
    tables = types.ModuleType("samplers")
    tables.KSAMPLER_NAMES = ["euler", "euler_ancestral", "gradient_estimation", "dpm_2", "dpm_fast", "dpmpp_2m_sde"]
    tables.SAMPLER_NAMES = [*tables.KSAMPLER_NAMES, "uni_pc", "uni_pc_bh2"]
    tables.KSampler = type("KSampler", (), {"DISCARD_PENULTIMATE_SIGMA_SAMPLERS": {"dpm_2", "uni_pc"}})
    return sampling, tables


def in_turn(x: Tensor, count: int = 400) -> object:
    """A noise sampler that gives the same noises in the same order, whatever the levels."""
    generator = torch.Generator().manual_seed(7)
    noises = itertools.cycle([torch.randn(x.shape, dtype=x.dtype, generator=generator) for _ in range(min(count, 64))])
    return lambda sigma, sigma_next: next(noises)

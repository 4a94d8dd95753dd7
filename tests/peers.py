"""One fixed nonlinear model, and the loops that the peers' users write, for the parity tests."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastdiff as fd

SEEDS = [3, 2**40 + 7]
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
VP = fd.Schedule.from_betas(BETAS.numpy())
STEPS = (1, 2, 3, 5, 10, 14, 15, 20, 60)  # 14 and 15: where diffusers' lower_order_final changes


def network(x: Tensor, t: Tensor) -> Tensor:
    """Smooth, bounded slope, mixes the components, depends on t in [0, 1]."""
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))
    x = x.double()
    return torch.sin(1.3 * x + 2 * t) * (0.5 + t) + 0.4 * torch.tanh(x.roll(1, -1))


def indexed(x: Tensor, t: Tensor) -> Tensor:
    """The network for times in 0..999."""
    return network(x, torch.as_tensor(t, dtype=torch.float64) / 1000)


def start_noise() -> Tensor:
    return fd.noise.randn((2, 5), SEEDS, dtype=torch.float64)


def path_noise(index: int) -> Tensor:
    return fd.noise.randn((2, 5), SEEDS, index=index, dtype=torch.float64)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value."""
    assert torch.isfinite(theirs).all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def diffusers_loop(scheduler: object, model: Callable, x: Tensor, **step_options: object) -> Tensor:
    for t in scheduler.timesteps:
        m = model(scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, t)
        x = scheduler.step(m, t, x, return_dict=False, **step_options)[0]
    return x


def inject_noise(monkeypatch: pytest.MonkeyPatch, scheduler: object, count: int) -> None:
    """Have a diffusers scheduler draw fastdiff's noises 1, 2, ... count."""
    module = importlib.import_module(type(scheduler).__module__)
    queue = iter([path_noise(i + 1) for i in range(count)])
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(queue))


def k_diffusion_sampling() -> types.ModuleType:
    """k_diffusion.sampling alone: the package's own import needs a dozen heavy packages that sampling does not."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed (pip install --no-deps k-diffusion)")
    name = "_k_diffusion_alone"
    if f"{name}.sampling" not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        package.utils = types.ModuleType(f"{name}.utils")
        package.utils.append_dims = lambda x, ndim: x.reshape(*x.shape, *[1] * (ndim - x.ndim))
        sys.modules[name], sys.modules[f"{name}.utils"] = package, package.utils
    return importlib.import_module(f"{name}.sampling")


def comfyui_module(name: str) -> types.ModuleType:
    """A module on the CPU of a ComfyUI whose folder is on PYTHONPATH."""
    if importlib.util.find_spec("comfy") is None:
        pytest.skip("ComfyUI is not there (its folder on PYTHONPATH, and what it requires)")
    importlib.import_module("comfy.cli_args").args.cpu = True
    return importlib.import_module(name)


def comfyui_sampling() -> types.ModuleType:
    """comfy.k_diffusion.sampling."""
    return comfyui_module("comfy.k_diffusion.sampling")

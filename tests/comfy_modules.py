"""ComfyUI's modules as far as nodes import them: a stand-in for them, and ComfyUI's own, with the same networks."""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import comfy_guiders
import pytest
import torch
from comfy_guiders import Model, Patcher, Real, Wrapped, conditioning
from hosts import CONST, SHIFT, new_host
from torch import Tensor

import fastdiff as fd
from fastdiff.comfyui import plan_files


class EPS:
    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return noise * (torch.sqrt(1 + sigma**2) if max_denoise else sigma) + latent_image


class ModelSamplingDiscrete:
    """ComfyUI's name for models with a table of sigmas, one for each index that they were trained on."""

    def __init__(self, schedule: fd.Schedule) -> None:
        points = schedule.at(torch.arange(1000).numpy())
        self.sigmas = torch.from_numpy(points.sigma / points.alpha)
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def percent_to_sigma(self, percent: float) -> float:
        place = (1 - percent) * 999
        low, part = int(place), place - int(place)
        logs = self.sigmas.log()
        return float((logs[low] * (1 - part) + logs[min(low + 1, 999)] * part).exp())


class DiscreteEPS(ModelSamplingDiscrete, EPS):
    pass


class ContinuousEDM(EPS):
    sigma_min, sigma_max = torch.tensor(0.002), torch.tensor(120.0)

    def percent_to_sigma(self, percent: float) -> float:
        return math.exp(math.log(120.0) * (1 - percent) + math.log(0.002) * percent)


class Flow(CONST):
    sigma_min, sigma_max = torch.tensor(SHIFT / (1000 + SHIFT - 1)), torch.tensor(1.0)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1 - sigma) * latent_image


class Sampler:
    """comfy.samplers.KSAMPLER."""

    def __init__(self, function: Callable, extra_options: dict | None = None) -> None:
        self.function, self.options = function, extra_options or {}

    def max_denoise(self, guider: object, sigmas: Tensor) -> bool:
        most = float(guider.inner_model.model_sampling.sigma_max)
        return math.isclose(most, float(sigmas[0]), rel_tol=1e-5) or float(sigmas[0]) > most

    def sample(
        self, guider: object, sigmas: Tensor, extra_args: dict, callback: object, noise: Tensor, latent: Tensor
    ) -> Tensor:
        model = Wrapped(guider)
        model.latent_image = latent
        sampling = guider.inner_model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, latent, self.max_denoise(guider, sigmas))
        return self.function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=True, **self.options)


class Guider(comfy_guiders.CFGGuider):
    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Sampler, sigmas: Tensor, denoise_mask: object = None,
        callback: object = None, disable_pbar: bool = False, seed: object = None,
    ) -> Tensor:  # fmt: skip
        def run(model: Wrapped, x: Tensor, sigmas: Tensor, extra_args: dict, **_: object) -> Tensor:
            return sampler.sample(
                model.inner_model, sigmas, {**extra_args, "seed": seed}, callback, noise, latent_image
            )

        return super().sample(run, noise, sigmas)


class Interrupted(Exception):
    """The user has asked ComfyUI to stop."""


class Progress:
    """comfy.utils.ProgressBar; on_update is called with what is shown."""

    on_update: Callable[[float], None] | None = None

    def __init__(self, total: float) -> None:
        self.total = total

    def update_absolute(self, value: float) -> None:
        assert 0 <= value <= self.total
        if Progress.on_update is not None:
            Progress.on_update(value / self.total)


class StandInModules:
    """What `fastdiff.comfyui` imports of ComfyUI, in sys.modules while the test runs."""

    real = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.stop, self.monkeypatch = False, monkeypatch
        sampling, tables = new_host()
        tables.KSAMPLER, tables.CFGGuider, tables.calc_cond_batch = Sampler, Guider, comfy_guiders.calc_cond_batch
        management = types.ModuleType("comfy.model_management")
        management.throw_exception_if_processing_interrupted = self._throw
        utils, latents = types.ModuleType("comfy.utils"), types.ModuleType("comfy.sample")
        utils.ProgressBar, latents.fix_empty_latent_channels = Progress, lambda model, latent: latent
        package, comfy = types.ModuleType("comfy.k_diffusion"), types.ModuleType("comfy")
        package.sampling, comfy.samplers, comfy.k_diffusion = sampling, tables, package
        modules = {"": comfy, ".samplers": tables, ".k_diffusion": package, ".k_diffusion.sampling": sampling}
        modules |= {".model_management": management, ".utils": utils, ".sample": latents}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, f"comfy{name}", module)
        monkeypatch.setitem(sys.modules, "folder_paths", folders_in(folder))
        monkeypatch.setattr(Progress, "on_update", None)
        self.sampling = sampling

    def _throw(self) -> None:
        if self.stop:
            raise Interrupted

    interrupted: type[Exception] = Interrupted

    def interrupt(self) -> None:
        self.stop = True

    def watch(self, on_update: Callable[[float], None]) -> None:
        """Have on_update called with the share that the progress bar shows."""
        self.monkeypatch.setattr(Progress, "on_update", staticmethod(on_update))

    def patcher(self, flow: bool = False) -> Patcher:
        return Patcher(Model(Flow() if flow else DiscreteEPS(fd.Schedule.scaled_linear()), flow))


def folders_in(folder: Path) -> types.ModuleType:
    """ComfyUI's folder_paths with all models in a folder."""
    paths, known = types.ModuleType("folder_paths"), {}

    def files(name: str) -> dict[str, str]:
        return {path.name: str(path) for place in known[name] for path in sorted(Path(place).glob("*"))}

    paths.models_dir = str(folder)
    paths.add_model_folder_path = lambda name, path: known.setdefault(name, [path])
    paths.get_folder_paths = known.__getitem__
    paths.get_filename_list = lambda name: list(files(name))
    paths.get_full_path_or_raise = functools.partial(_found, files)
    return paths


def _found(files: Callable[[str], dict[str, str]], name: str, file: str) -> str:
    if file not in files(name):
        raise FileNotFoundError(file)
    return files(name)[file]


class RealModules:
    """ComfyUI itself, with its models in a folder of the test's."""

    real = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.host, self.monkeypatch = Real(), monkeypatch
        import comfy.k_diffusion.sampling
        import comfy.model_management
        import folder_paths

        monkeypatch.setattr(folder_paths, "models_dir", str(folder))
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        monkeypatch.delitem(folder_paths.folder_names_and_paths, plan_files.FOLDER, raising=False)
        self.interrupted = comfy.model_management.InterruptProcessingException
        self.sampling = comfy.k_diffusion.sampling

    def interrupt(self) -> None:
        import comfy.model_management

        comfy.model_management.interrupt_current_processing()

    def watch(self, on_update: Callable[[float], None]) -> None:
        import comfy.utils

        hook = lambda value, total, preview, node_id=None: on_update(value / total)  # noqa: E731
        self.monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)

    def patcher(self, flow: bool = False) -> object:
        patcher = self.host.patcher(flow)
        if flow:
            patcher.model.model_sampling.set_parameters(shift=SHIFT)
        return patcher


def run(patcher: object, sampler: object, sigmas: Tensor, noise: Tensor, latent: Tensor | None = None) -> Tensor:
    """SamplerCustom's run, with two prompts and cfg 2."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(conditioning(0.5), conditioning(-0.3))
    guider.set_cfg(2.0)
    latent = torch.zeros_like(noise) if latent is None else latent.clone()
    return guider.sample(noise.clone(), latent, sampler, sigmas, disable_pbar=True, seed=11)

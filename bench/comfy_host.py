"""ComfyUI's samplers beside fastdiff's: one small network in each form of model, the same levels, the same noise.

Needs ComfyUI's folder on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fastdiff import kdiffusion

FORMS = {"eps": ("ModelSamplingDiscrete", "EPS"), "v": ("ModelSamplingDiscrete", "V_PREDICTION")}
FORMS["flow"] = ("ModelSamplingDiscreteFlow", "CONST")
STEPS = (1, 2, 3, 5, 9, 30)
ROUNDING = 1e-9
LOSSY = {"dpm_2_ancestral": 1e-7}  # ComfyUI's sigma_down, by a difference of squares, loses digits


class Deviation(NamedTuple):
    """forms: of models where results differ, by at most `bound`.

    options, last: with these, or with this last level, they are the same.
    """

    reason: str
    forms: tuple[str, ...] = tuple(FORMS)
    options: dict[str, object] | None = None
    last: float | None = None
    bound: float = float("inf")


NO_ALPHA = "ComfyUI adds noise to a flow as if alpha were 1 and loses the distribution"
DEVIATIONS = {
    "lms": Deviation("ComfyUI's last step, to sigma 0, is first order", last=0.05),
    "ipndm_v": Deviation("ComfyUI's orders 3 and 4 do not reproduce polynomials", options={"max_order": 2}),
    "er_sde": Deviation("ComfyUI sums its integrals over 200 points", options={"max_stage": 1}, bound=0.05),
    "deis": Deviation("ComfyUI sums its integrals over 10,000 points", bound=1e-3),
    "uni_pc": Deviation("ComfyUI stops at sigma = 0.001", last=0.001),
    "uni_pc_bh2": Deviation("ComfyUI stops at sigma = 0.001", last=0.001),
    "ddpm": Deviation(NO_ALPHA, ("flow",)),
    **{
        name: Deviation(NO_ALPHA, ("flow",), {"eta": 0.0})
        for name in ("dpmpp_2s_ancestral_cfg_pp", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp")
    },
}


class Host(NamedTuple):
    """ComfyUI's modules."""

    sampling: types.ModuleType
    samplers: types.ModuleType
    model_sampling: types.ModuleType

    @classmethod
    def load(cls) -> Host:
        """The ComfyUI on the path, on the CPU."""
        importlib.import_module("comfy.cli_args").args.cpu = True
        names = ("comfy.k_diffusion.sampling", "comfy.samplers", "comfy.model_sampling")
        return cls(*map(importlib.import_module, names))

    def form(self, name: str) -> object:
        """A model_sampling: SD1's levels for eps and v, uniform ones for flows."""
        bases = tuple(getattr(self.model_sampling, base) for base in FORMS[name])
        return type(name, bases, {})()

    def levels(self, form: str, steps: int, last: float | None = None) -> Tensor:
        """[steps + 1] float64: Karras' for eps and v, from below 1 for flows, where log SNR is finite."""
        grid = "simple" if form == "flow" else "karras"
        sigmas = self.samplers.calculate_sigmas(self.form(form), grid, steps).double()
        sigmas = 0.98 * sigmas if form == "flow" else sigmas
        return sigmas if last is None else torch.cat([sigmas[:-1], torch.tensor([last]).double()])

    def function(self, name: str) -> Callable[..., Tensor]:
        """What the host runs for a name of its menu."""
        return self.samplers.sampler_object(name).sampler_function


class Model:
    """A guided model as the host's samplers see it, around a smooth network; `told` are the levels it was asked at."""

    def __init__(self, sampling: object) -> None:
        self.sampling = sampling
        self.told: list[float] = []
        patcher = types.SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)
        inner = types.SimpleNamespace(model_sampling=sampling)
        self.inner_model = types.SimpleNamespace(inner_model=inner, model_patcher=patcher)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, seed: object = None) -> Tensor:
        self.told.append(float(sigma[0]))
        level = sigma.view(-1, *[1] * (x.ndim - 1))
        given = self.sampling.calculate_input(sigma, x)
        cond, uncond = (
            self.sampling.calculate_denoised(sigma, torch.sin(1.3 * given + shift) / (1 + 0.2 * level), x)
            for shift in (0.0, 0.4)
        )
        guided = uncond + 0.6 * (cond - uncond)
        for hook in (model_options or {}).get("sampler_post_cfg_function", []):
            guided = hook({"denoised": guided, "uncond_denoised": uncond})
        return guided


def in_turn(x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A noise sampler that gives the same noises in the same order."""
    generator = torch.Generator().manual_seed(7)
    noises = itertools.cycle([torch.randn(x.shape, dtype=x.dtype, generator=generator) for _ in range(64)])
    return lambda sigma, sigma_next: next(noises)


def ours(name: str) -> Callable[..., Tensor]:
    """fastdiff's function for a name of the menu, called as the host calls its own."""
    name = {"ddim": "euler"}.get(name, name)
    on_range = kdiffusion.steps.ON_SIGMA_RANGE
    return kdiffusion.steps.on_sigmas(f"sample_{name}") if f"sample_{name}" in on_range else _own(name)


def _own(name: str) -> Callable[..., Tensor]:
    return getattr(kdiffusion, f"sample_{name}")


@contextmanager
def in_double() -> Iterator[None]:
    """The host makes some of its numbers in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def difference(
    host: Host, name: str, form: str, steps: int, options: dict[str, object] | None = None, last: float | None = None
) -> float:
    """The largest difference of the two runs relative to the largest value; inf where they ask at other levels."""
    with in_double():
        sigmas, sampling = host.levels(form, steps, last), host.form(form)
        x = sigmas[0] * torch.randn(3, 4, 3, 3)
        results, told = [], []
        for function in (host.function(name), ours(name)):
            model, noise = Model(sampling), {}
            if "noise_sampler" in inspect.signature(function).parameters:
                noise["noise_sampler"] = in_turn(x)
            results.append(function(model, x, sigmas.clone(), {}, None, True, **noise, **(options or {})))
            told.append(torch.tensor(model.told))
    theirs, mine = results
    same = told[0].shape == told[1].shape and torch.allclose(told[0], told[1], rtol=1e-6)
    return float((mine - theirs).abs().max() / theirs.abs().max()) if same else float("inf")


def differs(name: str, form: str) -> Deviation | None:
    """Why a sampler's results on this form are not the host's; None where they are."""
    found = DEVIATIONS.get(name)
    return found if found is not None and form in found.forms else None


def worst(host: Host, name: str, form: str, **options: object) -> float:
    """The largest `difference` over STEPS; from two on where a single step leaves nothing to compare."""
    least = 2 if name.startswith(("uni_pc", "dpm_fast", "dpm_adaptive")) else 1
    return max(difference(host, name, form, steps, **options) for steps in STEPS if steps >= least)

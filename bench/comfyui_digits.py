"""python -m bench.comfyui_digits: plans in ComfyUI, beside its own samplers on its own sigmas, on the shipped network.

ComfyUI's folder must be on PYTHONPATH. Writes bench/results/comfyui_digits.md.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastdiff import comfyui, demo

from .machine import processor

STEPS = (6, 8)
IMAGES = 64
SECONDS = 150.0  # of a fit
SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "uni_pc_bh2", "lms", "ipndm", "ipndm_v", "deis", "res_multistep")
SAMPLERS += ("gradient_estimation",)  # those of ComfyUI that draw no noise and call the model once a step
RESULTS = Path(__file__).parent / "results" / "comfyui_digits.md"


class Network(nn.Module):
    """The digits network as ComfyUI calls one; the condition holds the label."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.unet = demo.load_model()

    def forward(self, x: Tensor, t: Tensor, context: Tensor, **_: object) -> Tensor:
        return self.unet(x, t, context.mean((1, 2)).round().long())


def patcher() -> object:
    """ComfyUI's MODEL with the network, on its schedule."""
    import comfy.latent_formats
    from comfy.model_base import BaseModel, ModelType
    from comfy.model_patcher import ModelPatcher

    latent = comfy.latent_formats.LatentFormat()
    latent.latent_channels = demo.SHAPE[0]
    config = types.SimpleNamespace(
        unet_config={"disable_unet_model_creation": True}, latent_format=latent, manual_cast_dtype=None,
        sampling_settings={}, memory_usage_factor=1.0,
    )  # fmt: skip
    model = BaseModel(config, ModelType.V_PREDICTION)
    model.diffusion_model = Network()
    points = demo.schedule().at(np.arange(1000))
    model.model_sampling.set_sigmas(torch.from_numpy(points.sigma / points.alpha))
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def guider(model: object) -> object:
    """Without a label and without guidance: what the shipped plans were fitted to."""
    import comfy.samplers

    made = comfy.samplers.CFGGuider(model)
    made.set_conds([[torch.full((1, 1, 1), float(demo.NUM_CLASSES)), {}]], [])
    return made


@torch.inference_mode()
def measured() -> Iterator[str]:
    """The lines of the tables."""
    import comfy.samplers
    import comfyui_version

    model = patcher()
    sampling = model.get_model_object("model_sampling")
    noise = torch.randn((IMAGES, *demo.SHAPE), generator=torch.Generator().manual_seed(0))

    def run(sampler: object, sigmas: Tensor) -> Tensor:
        zeros = torch.zeros_like(noise)
        return guider(model).sample(noise.clone(), zeros, sampler, sigmas.clone(), disable_pbar=True, seed=0)

    def grid(name: str, steps: int) -> Tensor:
        return comfy.samplers.calculate_sigmas(sampling, name, steps)

    exact = run(comfy.samplers.sampler_object("heun"), grid("karras", 200))

    def distance(sampler: object, sigmas: Tensor) -> float:
        return float((run(sampler, sigmas) - exact).square().mean((1, 2, 3)).sqrt().median())

    doubt = distance(comfy.samplers.sampler_object("dpmpp_2m"), grid("karras", 400))
    yield f"ComfyUI {comfyui_version.__version__}, {processor()}. {IMAGES} digits without guidance."
    yield "Distance: the median over images of the root mean square difference from the converged image, of pixels from"
    yield f"-1 to 1; two converged samplers agree to {doubt:.4f}. Stock: the three best of {len(SAMPLERS)} of ComfyUI's"
    yield "samplers, those that draw no noise and call the model once a step, on each of its schedulers; and two common"
    yield "ones."
    for steps in STEPS:
        found = []
        for name, scheduler in itertools.product(SAMPLERS, comfy.samplers.SCHEDULER_NAMES):
            sigmas = grid(scheduler, steps)
            if len(sigmas) == steps + 1:
                found.append((distance(comfy.samplers.sampler_object(name), sigmas), f"`{name}`, `{scheduler}`"))
        found = [pair for pair in found if np.isfinite(pair[0])]
        yield ""
        yield f"## {steps} evaluations"
        yield ""
        yield "| sampler and sigmas | distance |"
        yield "|---|---|"
        common = [pair for pair in found if pair[1] in ("`dpmpp_2m`, `karras`", "`euler`, `simple`")]
        for value, label in [*sorted(common), *sorted(found)[:3]]:
            yield f"| stock: {label} | {value:.4f} |"
        plan, _ = comfyui.FitRun(steps, SECONDS, 32)(guider(model), torch.zeros(1, *demo.SHAPE))
        for label, each in (
            (f"*Fit plan*, {SECONDS:g} seconds", plan),
            ("*Load plan*: shipped", demo.fitted_plan(steps)),
        ):
            sampler = comfy.samplers.KSAMPLER(comfyui.sampler_of(each))
            yield f"| {label} | {distance(sampler, comfyui.sigmas_of(each)):.4f} |"


if __name__ == "__main__":
    text = "# Plans in ComfyUI\n\n`python -m bench.comfyui_digits`\n\n" + "\n".join(measured()) + "\n"
    RESULTS.write_text(text)
    print(text)

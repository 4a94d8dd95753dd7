"""Nodes for the custom samplers of ComfyUI: fastdiff's samplers as SAMPLER, its grids as SIGMAS, and faster models."""

from __future__ import annotations

from typing import Any

from ..patch import accelerate
from .samplers import NAMES, options_of, read_options, sampler_function
from .schedule import GRID_NAMES, sigmas_on
from .widgets import Widget, choice, count, number, socket, text

STEPS = count(20, 1, 10000, "Model evaluations, for samplers that make one a step.")
DENOISE = number(1.0, 0.0, 1.0, "Below 1, only the last part of the run, from the noise that the image is given.")


class SamplerNode:
    DESCRIPTION = "A sampler of fastdiff. Nothing else in ComfyUI changes; seeds keep their images."
    CATEGORY, FUNCTION = "fastdiff/sampling", "get_sampler"
    RETURN_TYPES, RETURN_NAMES = ("SAMPLER",), ("sampler",)
    OUTPUT_TOOLTIPS = ("For SamplerCustom and SamplerCustomAdvanced.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        options = "Such as 'eta=0.5, s_noise=1.01'. Empty: the sampler's defaults. A wrong one gets the list of all."
        name = choice(NAMES, "By ComfyUI's names.", default="dpmpp_2m")
        return {"required": {"sampler_name": name}, "optional": {"options": text("", options)}}

    @classmethod
    def VALIDATE_INPUTS(cls, sampler_name: str | None = None, options: str | None = None) -> bool | str:
        """Says what is wrong before anything runs. What another node gives is not known yet, and is None."""
        try:
            if sampler_name is not None:
                options_of(sampler_name)
            if sampler_name is not None and options is not None:
                read_options(sampler_name, options)
        except ValueError as error:
            return str(error)
        return True

    def get_sampler(self, sampler_name: str, options: str = "") -> tuple[Any]:
        from comfy.samplers import KSAMPLER

        return (KSAMPLER(sampler_function(sampler_name), read_options(sampler_name, options)),)


class SchedulerNode:
    DESCRIPTION = "A grid of fastdiff on the model's own noise levels."
    CATEGORY, FUNCTION = "fastdiff/sampling", "get_sigmas"
    RETURN_TYPES, RETURN_NAMES = ("SIGMAS",), ("sigmas",)
    OUTPUT_TOOLTIPS = ("The noise levels, from the most noise to none.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        model = socket("MODEL", "The model whose noise levels they are.")
        where = "Where the steps lie. 'time': evenly on the model's time, which suits most models."
        grid = choice(GRID_NAMES, where, default="time")
        return {"required": {"model": model, "scheduler": grid, "steps": STEPS, "denoise": DENOISE}}

    def get_sigmas(self, model: Any, scheduler: str, steps: int, denoise: float) -> tuple[Any]:
        return (sigmas_on(model.get_model_object("model_sampling"), scheduler, steps, denoise),)


class AccelerateNode:
    DESCRIPTION = "The model with fastdiff's kernels for its norms and attentions. The given model stays as it is."
    CATEGORY, FUNCTION = "fastdiff", "accelerate"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "STRING"), ("model", "report")
    OUTPUT_TOOLTIPS = ("A clone that runs on fastdiff.", "What was changed, and what was left as it was and why.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Widget]]:
        return {"required": {"model": socket("MODEL", "The model to clone.")}}

    def accelerate(self, model: Any) -> tuple[Any, str]:
        handle = accelerate(model)
        return handle.model, str(handle)


NODES: dict[str, tuple[Any, str]] = {
    "FastdiffSampler": (SamplerNode, "Sampler"),
    "FastdiffScheduler": (SchedulerNode, "Scheduler"),
    "FastdiffAccelerate": (AccelerateNode, "Accelerate"),
}

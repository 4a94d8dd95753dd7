"""ComfyUI's samplers and schedulers beside fastdiff's, into bench/results/ksamplers.md.

    PYTHONPATH=<ComfyUI's folder> python -m bench.ksampler_parity

Differences are in float64, with the same noise. Times are the host's: the model costs nothing, so what is left is a
sampler's own arithmetic and Python.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdiff import kdiffusion

from .comfy_host import FORMS, STEPS, Host, Model, differs, worst
from .machine import processor

RESULTS = Path(__file__).parent / "results" / "ksamplers.md"
SHAPE, TIMED_STEPS, REPEATS = (1, 4, 64, 64), 20, 15
GRID_STEPS = (*range(2, 61), 137, 250, 400)  # of one step ComfyUI's kl_optimal is NaN
MODELS = {**FORMS, "EDM": ("ModelSamplingContinuousEDM", "EDM"), "Flux": ("ModelSamplingFlux", "CONST")}
DESCRIPTIONS = {"eps": "discrete", "flow": "flow", "EDM": "EDM", "Flux": "Flux"}


def between(function: Callable[..., Tensor]) -> Callable[[Any, int], Tensor]:
    """A function of (n, sigma_min, sigma_max) as one of a model_sampling and a number of steps."""
    return lambda sampling, steps: function(steps, float(sampling.sigma_min), float(sampling.sigma_max))


SCHEDULERS: dict[str, Callable[[Any, int], Tensor]] = {
    "simple": kdiffusion.simple_scheduler,
    "sgm_uniform": partial(kdiffusion.normal_scheduler, sgm=True),
    "karras": between(kdiffusion.get_sigmas_karras),
    "exponential": between(kdiffusion.get_sigmas_exponential),
    "ddim_uniform": kdiffusion.ddim_scheduler,
    "beta": kdiffusion.beta_scheduler,
    "normal": kdiffusion.normal_scheduler,
    "linear_quadratic": kdiffusion.linear_quadratic_schedule,
    "kl_optimal": between(kdiffusion.kl_optimal_scheduler),
}


class Free(Model):
    """A model that costs nothing: its output is always the same."""

    def __init__(self, sampling: object, output: Tensor) -> None:
        super().__init__(sampling)
        self.output, self.calls = output, 0

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, seed: object = None) -> Tensor:
        self.calls += 1
        for hook in (model_options or {}).get("sampler_post_cfg_function", []):
            hook({"denoised": self.output, "uncond_denoised": self.output})
        return self.output


def evaluation_us(host: Host, name: str) -> tuple[float, float]:
    """Microseconds for each model evaluation, (ComfyUI's, fastdiff's registered in it): the best of runs in turn."""
    sigmas = host.levels("eps", TIMED_STEPS).float()
    x, output = sigmas[0] * torch.randn(SHAPE), torch.randn(SHAPE)

    def run() -> float:
        model = Free(host.form("eps"), output)
        began = time.perf_counter()
        host.function(name)(model, x, sigmas.clone(), {"seed": 1}, None, True)
        return (time.perf_counter() - began) / model.calls * 1e6

    best = [float("inf")] * 2
    for _ in range(REPEATS):
        best[0] = min(best[0], run())
        handle = kdiffusion.register(host.sampling, host.samplers)
        best[1] = min(best[1], run())
        handle.undo()
    return best[0], best[1]


def sampler_row(host: Host, name: str) -> str:
    cells, reasons = [], []
    for form in FORMS:
        cells.append(f"{worst(host, name, form):.0e}")
        if (deviation := differs(name, form)) is not None:
            reasons.append(deviation)
            if deviation.options or deviation.last:
                same = worst(host, name, form, options=deviation.options, last=deviation.last)
                cells[-1] += f" ({same:.0e})"
    theirs, mine = evaluation_us(host, name)
    why = reasons[0].reason if reasons else ""
    return f"| `{name}` | {' | '.join(cells)} | {theirs:.0f} | {mine:.0f} | {theirs / mine:.1f} | {why} |"


def grid_row(host: Host, name: str) -> str:
    cells = []
    for form in DESCRIPTIONS:
        sampling = type(form, tuple(getattr(host.model_sampling, base) for base in MODELS[form]), {})()
        worst_here = 0.0
        for steps in GRID_STEPS:
            theirs = host.samplers.calculate_sigmas(sampling, name, steps)
            mine = SCHEDULERS[name](sampling, steps)
            worst_here = max(worst_here, float(((mine - theirs).abs() / theirs.clamp(min=1e-9)).max()))
        cells.append(f"{worst_here:.0e}")
    return f"| `{name}` | {' | '.join(cells)} |"


def report(host: Host) -> str:
    cases = len(STEPS) * len(FORMS)
    version = getattr(__import__("comfyui_version"), "__version__", "?")
    head = f"torch {torch.__version__}, {processor()}, ComfyUI {version}"
    lines = [
        "# ComfyUI's samplers and schedulers beside fastdiff's",
        "",
        f"`python -m bench.ksampler_parity`, {head}.",
        "",
        f"Samplers: the largest difference over {cases} cases, relative to the largest value, in float64 with the same"
        f" noise: {', '.join(map(str, STEPS))} steps (`uni_pc`, `dpm_fast` and `dpm_adaptive` from 2 on) on each form"
        " of model. In brackets: with the deviation's cause left out. Times are microseconds for each model evaluation"
        f" of a model that costs nothing, fastdiff registered in ComfyUI, x of shape {SHAPE} in float32, {TIMED_STEPS}"
        f" steps, the best of {REPEATS} runs.",
        "",
        f"| sampler | {' | '.join(FORMS)} | ComfyUI us | fastdiff us | times | differs because |",
        "|---" * (5 + len(FORMS)) + "|",
        *(sampler_row(host, name) for name in host.samplers.SAMPLER_NAMES),
        "",
        f"Schedulers: the largest relative difference of a level over {len(GRID_STEPS)} numbers of steps, 2 to 400, on"
        " each kind of model. ComfyUI computes in float32, fastdiff in float64.",
        "",
        f"| scheduler | {' | '.join(DESCRIPTIONS.values())} |",
        "|---" * (1 + len(DESCRIPTIONS)) + "|",
        *(grid_row(host, name) for name in host.samplers.SCHEDULER_NAMES),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    RESULTS.write_text(report(Host.load()))
    print(RESULTS)


if __name__ == "__main__":
    main()

"""diffusers' and k-diffusion's own samplers on the problems, counted in model evaluations."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdiff.plans.grid import LOG_SNR_CUT
from fastdiff.plans.prediction import convert
from fastdiff.sampling.model import ModelCalls

from .problems import Problem

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from peers import diffusers_loop, k_diffusion_sampling

Sampler = Callable[[Callable, Tensor, int], Tensor]  # (model(x, t), noise, steps) -> samples

VP_SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "DEIS": ("DEISMultistepScheduler", {"solver_order": 3}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM-Solver 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
}
FLOW_SCHEDULERS = {
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "flow DPM++ 2M": ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    "flow UniPC 3": (
        "UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "solver_order": 3}
    ),
}  # fmt: skip
SPACINGS = (
    *({"timestep_spacing": name} for name in ("linspace", "leading", "trailing")),
    *({name: True} for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas")),
)
K_SAMPLERS = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2s_ancestral")
K_GRIDS = ("karras", "exponential", "time", "quadratic")


def peers(problem: Problem) -> dict[tuple[str, str], Sampler]:
    """(name, grid) -> sampler of every peer that serves the problem's schedule."""
    ours = ((name, grid) for name, grid in product(K_SAMPLERS, K_GRIDS))
    return {(f"k-diffusion {name}", grid): _k_diffusion(problem, name, grid) for name, grid in ours} | dict(
        _diffusers(problem)
    )


def defaults(problem: Problem) -> dict[tuple[str, str], Sampler]:
    """The same with each peer's own grid: k-diffusion's is karras, diffusers' schedulers have theirs."""
    found = {(f"k-diffusion {name}", "karras"): _k_diffusion(problem, name, "karras") for name in K_SAMPLERS}
    return found | {key: s for key, s in _diffusers(problem, own=True) if key[1] in ("its own", "karras")}


def draw(problem: Problem, sampler: Sampler, seeds: list[int], evaluations: int) -> tuple[Tensor, int] | None:
    """The samples with the most steps whose evaluations fit, and the evaluations; None where there is no such run."""
    for steps in range(evaluations, 0, -1):
        spent: list[int] = []
        try:
            sampler(_model(problem, seeds[:1], spent), problem.noise(seeds[:1]), steps)
        except (ValueError, IndexError, AssertionError, ZeroDivisionError, TypeError):  # the peer's own limits
            continue
        if len(spent) <= evaluations:
            return sampler(_model(problem, seeds, []), problem.noise(seeds), steps), len(spent)
    return None


def _model(problem: Problem, seeds: list[int], spent: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """model(x, t), guided where the problem is; t a number or [B]."""
    conditions = problem.conditions(seeds)
    guidance, uncond = conditions.pop("guidance", None), conditions.pop("uncond", None)
    calls = ModelCalls(problem.model, problem.noise(seeds).shape, guidance, uncond, "batch", conditions)
    run, copies = calls.evaluator(), calls.copies

    @torch.no_grad()
    def model(x: Tensor, t: Tensor) -> Tensor:
        spent.append(1)
        x, t = x.to(problem.dtype), torch.as_tensor(t, dtype=problem.dtype).reshape(-1).expand(len(x))
        m, m_uncond = run(torch.cat([x] * copies), torch.cat([t] * copies))
        return m if m_uncond is None else m_uncond + guidance * (m - m_uncond)

    return model


def _k_diffusion(problem: Problem, name: str, grid: str) -> Sampler:
    """x / alpha with sigma / alpha, as k-diffusion's wrappers of other schedules do it."""
    sampling, schedule = k_diffusion_sampling(), problem.schedule

    def run(model: Callable, noise: Tensor, steps: int) -> Tensor:
        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            point = schedule.at_log_snr(-np.log(float(sigma[0])))
            alpha, level = float(point.alpha), float(point.sigma)
            m = model(alpha * x, torch.tensor(float(point.t)))
            p_x, p_m = convert(problem.prediction, "data", alpha, level)
            return p_x * alpha * x + p_m * m

        first = np.exp(-max(float(schedule.log_snr(schedule.t_max)), LOG_SNR_CUT))
        last = np.exp(-float(schedule.log_snr(schedule.t_min)))
        if grid == "karras":
            sigmas = sampling.get_sigmas_karras(steps, last, first)
        elif grid == "exponential":
            sigmas = sampling.get_sigmas_exponential(steps, last, first)
        else:
            points = problem.plan("ddim", steps, grid)
            sigmas = torch.tensor([min(row.sigma / max(row.alpha, 1e-9), first) for row in points.rows] + [0.0])
        sigmas = sigmas.to(noise.dtype)
        options = {"eta": 0.0} if name.endswith("ancestral") else {}
        return getattr(sampling, f"sample_{name}")(denoiser, noise * sigmas[0], sigmas, disable=True, **options)

    return run


def _diffusers(problem: Problem, own: bool = False) -> Iterator[tuple[tuple[str, str], Sampler]]:
    table = {"vp": VP_SCHEDULERS, "flow": FLOW_SCHEDULERS}.get(problem.schedule.kind, {})
    spacings = SPACINGS if problem.schedule.kind == "vp" and not own else ({},)
    for (name, (cls, options)), spacing in product(table.items(), spacings):
        yield (f"diffusers {name}", _spacing_name(spacing)), _scheduler(problem, cls, options | spacing)
    if problem.schedule.kind == "ve":
        for order, spacing in product((2, 3), ("karras", "exponential")):
            options = {"solver_order": order, "sigma_schedule": spacing}
            yield (f"diffusers EDM DPM++ {order}M", spacing), _edm(problem, "EDMDPMSolverMultistepScheduler", options)
        for spacing in ("karras", "exponential"):
            yield ("diffusers EDM Euler", spacing), _edm(problem, "EDMEulerScheduler", {"sigma_schedule": spacing})


def _spacing_name(spacing: dict) -> str:
    return next((str(v) if v is not True else k.removeprefix("use_") for k, v in spacing.items()), "its own")


def _scheduler(problem: Problem, cls: str, options: dict) -> Sampler:
    flow = problem.schedule.kind == "flow"

    def run(model: Callable, noise: Tensor, steps: int) -> Tensor:
        scheduler = _quietly(cls, options if flow else _vp_options(problem) | options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.set_timesteps(steps)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            share = torch.as_tensor(t, dtype=noise.dtype) / 1000
            m = model(x, share)
            return m if problem.prediction == "flow_prediction" else (x - m) / share

        scale = 1.0 if flow else scheduler.init_noise_sigma
        return diffusers_loop(scheduler, velocity if flow else model, noise * scale)

    return run


def _vp_options(problem: Problem) -> dict:
    a = np.append(1.0, problem.schedule.alphas_cumprod)
    return {"trained_betas": (1 - a[1:] / a[:-1]).tolist(), "prediction_type": problem.prediction}


def _edm(problem: Problem, cls: str, options: dict) -> Sampler:
    """The schedulers that precondition the network themselves are given what their formula turns into x0."""

    def run(model: Callable, noise: Tensor, steps: int) -> Tensor:
        levels = {"sigma_min": problem.schedule.t_min, "sigma_max": problem.schedule.t_max}
        scheduler = _quietly(cls, levels | options)
        scheduler.set_timesteps(steps)
        x = noise * problem.schedule.t_max
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            scheduler.scale_model_input(x, t)
            square, data = float(sigma) ** 2, scheduler.config.sigma_data**2
            skip, out = data / (square + data), float(sigma) * data**0.5 / (square + data) ** 0.5
            x = scheduler.step((model(x, sigma) - skip * x) / out, t, x, return_dict=False)[0]
        return x

    return run


def _quietly(cls: str, options: dict) -> object:
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(diffusers, cls)
        if unknown := set(options) - set(made.__init__.__wrapped__.__code__.co_varnames):
            raise ValueError(f"{cls} has no {', '.join(unknown)}")
        return made(**options)

"""ComfyUI's samplers with CFG++ (Chung et al. 2024, arXiv 2406.08070): `guidance` has the method, `samplers` the
arguments.

The model must be a host's, which calls `model_options["sampler_post_cfg_function"]` with the unconditional output. Its
cfg scale is CFG++'s lambda, between 0 and 1.

On a rectified flow, sample_euler_cfg_pp and sample_euler_ancestral_cfg_pp know that alpha = 1 - sigma. The others weigh
the guidance as if alpha were 1, as in ComfyUI: there `fastdiff.guidance.CFGpp` is right.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..plans.catalogue import find_solver
from .flow import ancestral, schedule_up_to_one
from .guidance import Build, Unconditional, in_start, in_step, on_guided, on_uncond
from .loop import EDM, Denoiser, solve
from .noise import Extra, NoiseSampler, independent
from .res_ancestral import res_ancestral
from .samplers import Callback, make_ancestral, make_plain, sample_gradient_estimation


def _solver(name: str, **options: Any) -> Build:
    return partial(find_solver(name)[0].build, **options)


_EULER = on_uncond(_solver("euler_ancestral"), in_step)
_DPMPP_2M = on_uncond(_solver("dpmpp_2m", lower_order_final=False), in_step)
_RES = on_uncond(_solver("res_multistep"), in_start)
_RES_ANCESTRAL = on_uncond(res_ancestral, in_start)
_DPMPP_2S, _DPMPP_2S_FLOW = on_guided(_solver("dpmpp_2s_ancestral")), on_guided(ancestral("dpmpp_2s", EDM))


@torch.no_grad()
def sample_euler_cfg_pp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
) -> Tensor:
    """Euler steps with CFG++."""
    return sample_euler_ancestral_cfg_pp(model, x, sigmas, extra_args, callback, disable, eta=0.0)


@torch.no_grad()
def sample_euler_ancestral_cfg_pp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Ancestral Euler steps in sigma / alpha with CFG++; sigmas of a rectified flow are at most 1."""
    uncond = Unconditional(extra_args)
    return solve(
        model, x, sigmas, _EULER, extra_args=extra_args, callback=callback, disable=disable, uncond=uncond,
        draw=independent(x, extra_args, noise_sampler, sigmas), schedule=schedule_up_to_one(model, sigmas) or EDM,
        rise=eta, eta=eta, s_noise=s_noise,
    )  # fmt: skip


sample_dpmpp_2s_ancestral_cfg_pp = make_ancestral(
    _DPMPP_2S, _DPMPP_2S_FLOW, "sample_dpmpp_2s_ancestral_cfg_pp",
    "Ancestral steps of DPM-Solver++ 2S (Lu et al. 2022) with CFG++.", partial(Unconditional, staged=True),
)  # fmt: skip


sample_dpmpp_2m_cfg_pp = make_plain(
    _DPMPP_2M, "sample_dpmpp_2m_cfg_pp",
    "DPM-Solver++ 2M (Lu et al. 2022, algorithm 2) with CFG++: the earlier output is the unconditional one.",
    Unconditional,
)  # fmt: skip


@torch.no_grad()
def sample_res_multistep_cfg_pp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """RES (Zhang et al. 2023) with CFG++: from the second step on, both outputs that it reads are unconditional ones.

    It draws no noise; s_noise and noise_sampler are ignored.
    """
    uncond = Unconditional(extra_args)
    return solve(
        model, x, sigmas, _RES, extra_args=extra_args, callback=callback, disable=disable, uncond=uncond
    )  # fmt: skip


sample_res_multistep_ancestral_cfg_pp = make_ancestral(
    _RES_ANCESTRAL, _RES_ANCESTRAL, "sample_res_multistep_ancestral_cfg_pp",
    "Ancestral steps of `sample_res_multistep_cfg_pp`.", Unconditional,
)  # fmt: skip


@torch.no_grad()
def sample_gradient_estimation_cfg_pp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
) -> Tensor:
    """`sample_gradient_estimation` with CFG++."""
    return sample_gradient_estimation(model, x, sigmas, extra_args, callback, disable, ge_gamma, cfg_pp=True)

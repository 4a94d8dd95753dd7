"""k-diffusion's sample_* functions, with its names, arguments and defaults, and those that ComfyUI adds.

fn(model, x, sigmas, extra_args=None, callback=None, disable=None, ...) -> x [B, ...] at sigmas[-1], in x's dtype.

    model           model(x, sigma [B], **extra_args) -> the denoised x [B, ...]
    x               [B, ...] at sigmas[0]: the data plus sigmas[0] times unit noise
    sigmas          [n + 1], falling, usually to 0; with fewer than two, x is returned. Where they rise, ODE solvers and
                    eta = 0 encode, and others add noise by the forward process. A repeated sigma is an empty step,
                    except for churn
    callback        called with {"x", "i", "sigma", "sigma_hat", "denoised"} before each update; x is a copy
    disable         hides the tqdm bar
    noise_sampler   noise_sampler(sigma, sigma_next) -> unit noise [B, ...]. If None, the increment of a Brownian path
                    over sigma, one per sample, from extra_args["seed"] (a list, or the first of consecutive numbers) or
                    from torch's generator

Raises TypeError or ValueError naming the argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..plans.catalogue import find_solver
from . import host
from .flow import FLOW, ancestral, flow_sampling, schedule_up_to_one
from .guidance import Build, Unconditional, on_uncond
from .heunpp import heunpp
from .loop import EDM, Denoiser, solve
from .noise import Extra, NoiseSampler, independent
from .res_ancestral import res_ancestral
from .vp_time import VP_TIME

Callback = Callable[[dict], object] | None

_GRADIENT = find_solver("gradient_estimation")[0].build
_GRADIENT_CFG_PP = on_uncond(_GRADIENT, lambda row: 1.0)
CORRECTIONS = {"phi_1": "midpoint", "phi_2": "heun"}  # solver_type as SEEDS names it


def _churned(
    solver: str | Build, name: str, doc: str, one_step: bool = True, draws_always: bool = False
) -> Callable[..., Tensor]:
    @torch.no_grad()
    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Extra = None,
        callback: Callback = None,
        disable: bool | None = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
    ) -> Tensor:
        flow = s_churn > 0 and flow_sampling(model) is not None
        if s_churn > 0 and draws_always:  # the host's function does, at steps outside the window too
            host.skip_draws(x, sigmas, s_tmin, s_tmax)
        if flow:  # churn is in sigma / alpha
            s_tmin, s_tmax = _over_alpha(s_tmin), _over_alpha(s_tmax)
        return solve(
            model, x, sigmas, solver, extra_args=extra_args, callback=callback, disable=disable,
            draw=lambda *_: host.randn_like(x), schedule=FLOW if flow else EDM, one_step=one_step or s_churn > 0,
            s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise,
        )  # fmt: skip

    return _named(
        sample, name, doc + " s_churn's noise comes from torch.randn_like, drawn where a step adds noise back."
    )


def _over_alpha(sigma: float) -> float:
    return sigma / (1 - sigma) if sigma < 1 else math.inf


def make_ancestral(
    solver: str | Build,
    flow_solver: Build,
    name: str,
    doc: str,
    uncond: Callable[[Extra], Unconditional] | None = None,
) -> Callable[..., Tensor]:

    @torch.no_grad()
    def sample(
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
        flow = flow_sampling(model) is not None
        return solve(
            model, x, sigmas, flow_solver if flow else solver,
            extra_args=extra_args, callback=callback, disable=disable,
            draw=independent(x, extra_args, noise_sampler, sigmas), schedule=FLOW if flow else EDM,
            uncond=None if uncond is None else uncond(extra_args), rise=eta, eta=eta, s_noise=s_noise,
        )  # fmt: skip

    return _named(sample, name, doc + " On rectified flows as `flow.ancestral` describes.")


def make_plain(
    solver: str | Build,
    name: str,
    doc: str,
    uncond: Callable[[Extra], Unconditional] | None = None,
    **options: Any,
) -> Callable[..., Tensor]:
    @torch.no_grad()
    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Extra = None,
        callback: Callback = None,
        disable: bool | None = None,
    ) -> Tensor:
        return solve(
            model, x, sigmas, solver, extra_args=extra_args, callback=callback, disable=disable,
            uncond=None if uncond is None else uncond(extra_args), **options,
        )  # fmt: skip

    return _named(sample, name, doc)


def _named(function: Callable[..., Tensor], name: str, doc: str) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


sample_euler = _churned("euler", "sample_euler", "Euler steps (Karras et al. 2022, algorithm 2).")
sample_heun = _churned("heun", "sample_heun", "Heun steps (Karras et al. 2022, algorithm 2).")
sample_dpm_2 = _churned("dpm_2", "sample_dpm_2", "The midpoint rule at the geometric middle of each step.")
sample_heunpp2 = _churned(
    heunpp, "sample_heunpp2", "Heun++: weighted means of the slopes at up to three levels, of first order.",
    one_step=False, draws_always=True,
)  # fmt: skip
sample_euler_ancestral = make_ancestral(
    "euler_ancestral", ancestral("euler", EDM), "sample_euler_ancestral", "Ancestral Euler steps."
)
sample_dpm_2_ancestral = make_ancestral(
    "dpm_2_ancestral", ancestral("dpm_2", EDM), "sample_dpm_2_ancestral", "Ancestral steps of `sample_dpm_2`."
)
sample_dpmpp_2s_ancestral = make_ancestral(
    "dpmpp_2s_ancestral", ancestral("dpmpp_2s", FLOW), "sample_dpmpp_2s_ancestral",
    "Ancestral steps of DPM-Solver++ 2S (Lu et al. 2022).",
)  # fmt: skip
sample_res_multistep_ancestral = make_ancestral(
    res_ancestral, res_ancestral, "sample_res_multistep_ancestral", "Ancestral steps of `sample_res_multistep`."
)
sample_dpmpp_2m = make_plain(
    "dpmpp_2m", "sample_dpmpp_2m", "DPM-Solver++ 2M (Lu et al. 2022, algorithm 2).", lower_order_final=False
)
sample_uni_pc = make_plain(
    "unipc_bh1", "sample_uni_pc",
    "UniPC with B(h) = h (Zhao et al. 2023), order 3. Differences of outputs have the weight h / 2, without bound, with"
    " h = log(sigma / sigma_next); for h > 1 use sample_uni_pc_bh2, where it stays below 1.",
    order=3,
)  # fmt: skip
sample_uni_pc_bh2 = make_plain("unipc", "sample_uni_pc_bh2", "UniPC with B(h) = e^h - 1 (Zhao et al. 2023).", order=3)


def unipc_of_variant(
    model: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    variant: str = "bh1",
) -> Tensor:
    """`sample_uni_pc` ("bh1") or `sample_uni_pc_bh2` ("bh2"), with the arguments of ComfyUI's sample_unipc."""
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant: expected 'bh1' or 'bh2', got {variant!r}")
    sample = sample_uni_pc if variant == "bh1" else sample_uni_pc_bh2
    return sample(model, noise, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_ddpm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """The posterior of the forward process, with its smaller variance (Ho et al. 2020, eq. 7); for flows their own."""
    return solve(
        model, x, sigmas, "ddim", extra_args=extra_args, callback=callback, disable=disable,
        draw=independent(x, extra_args, noise_sampler, sigmas), schedule=schedule_up_to_one(model, sigmas) or EDM,
        rise=1.0, eta=1.0, s_noise=1.0,
    )  # fmt: skip


@torch.no_grad()
def sample_lcm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """The model's output with fresh noise at each step, for consistency models (Luo et al. 2023, algorithm 3)."""
    return solve(
        model, x, sigmas, "lcm", extra_args=extra_args, callback=callback, disable=disable,
        draw=independent(x, extra_args, noise_sampler, sigmas), schedule=EDM if flow_sampling(model) is None else FLOW,
        noise_left=0.0,
    )  # fmt: skip


@torch.no_grad()
def sample_lms(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    order: int = 4,
) -> Tensor:
    """Linear multistep (Adams-Bashforth in sigma), order 1 to 8."""
    return solve(model, x, sigmas, "lms", extra_args=extra_args, callback=callback, disable=disable, order=order)


@torch.no_grad()
def sample_ipndm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """iPNDM (Zhang & Chen 2023): Adams-Bashforth weights for equal steps, max_order 1 to 4."""
    return solve(model, x, sigmas, "ipndm", extra_args=extra_args, callback=callback, disable=disable, order=max_order)


@torch.no_grad()
def sample_ipndm_v(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """iPNDM with weights for the grid's own steps (Zhou et al. 2024), max_order 1 to 4."""
    return solve(
        model, x, sigmas, "ipndm_v", extra_args=extra_args, callback=callback, disable=disable, order=max_order
    )


@torch.no_grad()
def sample_deis(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    max_order: int = 3,
    deis_mode: str = "tab",
) -> Tensor:
    """DEIS (Zhang & Chen 2023): polynomials in the VP SDE's time ("tab") or in sigma ("rhoab")."""
    if deis_mode not in ("tab", "rhoab"):
        raise ValueError(f"deis_mode: expected 'tab' or 'rhoab', got {deis_mode!r}")
    solver = "deis" if deis_mode == "tab" else "deis_rhoab"
    return solve(
        model, x, sigmas, solver, extra_args=extra_args, callback=callback, disable=disable, schedule=VP_TIME,
        order=max_order,
    )  # fmt: skip


@torch.no_grad()
def sample_gradient_estimation(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
    cfg_pp: bool = False,
) -> Tensor:
    """Gradient estimation (Permenter & Yuan 2024, algorithm 2). cfg_pp: CFG++, for ComfyUI's models."""
    uncond = Unconditional(extra_args) if cfg_pp else None
    return solve(
        model, x, sigmas, _GRADIENT_CFG_PP if uncond else _GRADIENT,
        extra_args=extra_args, callback=callback, disable=disable, uncond=uncond,
        gamma=ge_gamma,
    )  # fmt: skip


@torch.no_grad()
def sample_exp_heun_2_x0(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    solver_type: str = "phi_2",
) -> Tensor:
    """Exponential Heun steps in data form. solver_type: "phi_1" (mean of the two outputs) or "phi_2" (Taylor)."""
    return solve(
        model, x, sigmas, "exp_heun", extra_args=extra_args, callback=callback, disable=disable, log_snr=True,
        correction=correction_of(solver_type, CORRECTIONS),
    )  # fmt: skip


def correction_of(solver_type: str, known: dict[str, str]) -> str:
    if solver_type not in known:
        raise ValueError(f"solver_type: expected {' or '.join(map(repr, sorted(known)))}, got {solver_type!r}")
    return known[solver_type]


@torch.no_grad()
def sample_res_multistep(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """RES (Zhang et al. 2023), second order. It draws no noise; s_noise and noise_sampler are ignored."""
    return solve(model, x, sigmas, "res_multistep", extra_args=extra_args, callback=callback, disable=disable)

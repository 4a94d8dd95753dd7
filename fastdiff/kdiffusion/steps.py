"""sample_dpm_fast and sample_dpm_adaptive: DPM-Solver between two sigmas (Lu et al. 2022, arXiv 2206.00927)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..ops import make_row, solver_step
from ..plans.plan import Plan
from ..plans.row import Row
from ..plans.schedule import Schedule
from ..plans.solvers.ancestral import step_down
from ..plans.solvers.churn import renoised
from ..plans.solvers.embedded import embedded_step
from ..plans.solvers.exponential import singlestep
from ..sampling.adaptive import Controller, scaled_error
from .caller_sigmas import read_sigmas
from .flow import FLOW, flow_sampling, sigma_down
from .loop import EDM, Denoiser, run_of, show, start
from .noise import Draw, Extra, NoiseSampler, independent

Callback = Callable[[dict], object] | None


@torch.no_grad()
def sample_dpm_fast(
    model: Denoiser,
    x: Tensor,
    sigma_min: float | Tensor,
    sigma_max: float | Tensor,
    n: int,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-fast: n evaluations in third-order steps, uniform in log sigma, the last ones of lower order.

    Takes x [B, ...] from sigma_max to sigma_min; with sigma_max < sigma_min and eta = 0 it encodes. callback also sees
    "t" and "t_up", which are -log sigma. With eta > 0 noise is added back as in the ancestral samplers, for rectified
    flows too. Raises ValueError naming the argument.
    """
    sigma_min, sigma_max = _ends(sigma_min, sigma_max, eta)
    if n < 1:
        raise ValueError(f"n: expected a whole number >= 1, got {n}")
    draw = independent(x, extra_args, noise_sampler, x) if eta else None
    plan, times = _fast_plan(_process(model), sigma_min, sigma_max, n, float(eta), float(s_noise))
    sigmas, rows = np.exp(-times), plan.rows
    run, kwargs = run_of(plan, x), extra_args or {}
    step, begins = 0, True

    def evaluate(given: Tensor, t: Tensor) -> tuple[Tensor, None, list[Tensor]]:
        denoised = model(given, t, **kwargs)
        progress.update()
        if begins and callback is not None:
            time = torch.tensor(times[step], dtype=x.dtype)
            at = time.neg().exp()
            show(callback, run, x.dtype, i=step, sigma=at, sigma_hat=at, t=time, t_up=time, denoised=denoised)
        ends = sigmas[step : step + 2].tolist()
        return denoised, None, [draw(*ends).to(run.x.dtype)] if rows[run.i].x.noise else []

    with tqdm(total=n, disable=disable) as progress:
        for i in run.steps(evaluate, run.times([row.sigma for row in rows], x.dtype)):
            begins = rows[i].accepts
            step += begins
    return run.x.to(x.dtype)


@functools.lru_cache(maxsize=32)
def _fast_plan(
    process: Schedule, sigma_min: float, sigma_max: float, n: int, eta: float, s_noise: float
) -> tuple[Plan, np.ndarray]:
    """The steps and the times -log sigma that they begin and end at, kept for the next image."""
    # As DPM-Solver-fast divides n: third-order steps, and lower orders at the end even where 3 divides n.
    orders = [3] * (n // 3 - 1) + [2, 1] if n % 3 == 0 else [3] * (n // 3) + [n % 3]
    # -log sigma is the lambda of alpha = 1.
    times = np.linspace(-math.log(sigma_max), -math.log(sigma_min), len(orders) + 1)
    sigmas = np.exp(-times)
    rows: list[Row] = []
    for i, order in enumerate(orders):
        down = _down(process, sigmas[i], sigmas[i + 1], eta, sigma_min)
        part = singlestep(EDM, EDM.at(np.array([sigmas[i], down])), "sample", order=order, form="noise")
        if down != sigmas[i + 1]:
            part[-1] = renoised(part[-1], process.at(down), process.at(sigmas[i + 1]), i + 1, s_noise)
        rows += part
    return Plan(tuple(rows), (1.0, sigma_min), "sample"), times


@torch.no_grad()
def sample_dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float | Tensor,
    sigma_max: float | Tensor,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, dict[str, int]]:
    """DPM-Solver-12 or -23 with adaptive step size, from sigma_max to sigma_min (or upwards, with eta = 0).

    See `fastdiff.sample_adaptive` for the error estimate and the controller. callback runs after each attempt and also
    sees "t", "t_up", "error", "h", "steps", "nfe", "n_accept" and "n_reject"; return_info also returns the last four.
    The host waits for the device once per attempt, to read the error. Raises ValueError naming the argument.
    """
    sigma_min, sigma_max = _ends(sigma_min, sigma_max, eta)
    if order not in (2, 3):
        raise ValueError(f"order: expected 2 or 3, got {order}")
    forward = sigma_min < sigma_max
    sign = 1 if forward else -1
    draw = independent(x, extra_args, noise_sampler, x) if eta else None
    process = _process(model)
    # As k-diffusion: with noise, errors are taken to fall as h^1.5 whatever the order of the pair.
    controller = Controller(sign * abs(h_init), 1.5 if eta else order, pcoeff, icoeff, dcoeff, accept_safety)
    info = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}
    time, last = -math.log(sigma_max), -math.log(sigma_min)
    now = before = x
    with tqdm(disable=disable) as progress:
        # What is left below that is the rounding of the steps' sum.
        while sign * (last - time) > 1e-5:
            target = min(last, time + controller.h) if forward else max(last, time + controller.h)
            s, t = math.exp(-time), math.exp(-target)
            down = _down(process, s, t, eta, sigma_min)
            rows = embedded_step(EDM, EDM.at(s), EDM.at(down), "sample", f"dpm_{order - 1}{order}")
            run = start(rows, (1.0, down), now)
            outputs: list[Tensor] = []

            def evaluate(given: Tensor, t: Tensor, seen: list[Tensor] = outputs) -> tuple[Tensor, None]:
                seen.append(model(given, t, **(extra_args or {})))
                progress.update()
                return seen[-1], None

            run.drive(evaluate, run.times([row.sigma for row in rows], x.dtype))
            error = scaled_error(run.x, run.base, before, rtol, atol)
            if controller.propose(error):
                # The next error's scale is that of the lower-order result, which no noise was added to.
                before, now, time = run.base, _noised(run.x, process, (s, down, t), s_noise, draw), target
                info["n_accept"] += 1
            else:
                info["n_reject"] += 1
            info["nfe"] += order
            info["steps"] += 1
            if callback is not None:
                at = torch.tensor(time, dtype=x.dtype)
                values = {"t": at, "t_up": at, "sigma": at.neg().exp(), "sigma_hat": at.neg().exp(), "h": controller.h}
                values |= {"i": info["steps"] - 1, "denoised": outputs[0], "error": torch.tensor(error), **info}
                callback({"x": now.to(x.dtype, copy=True), **values})
    result = now.to(x.dtype)
    return (result, info) if return_info else result


def _ends(sigma_min: float | Tensor, sigma_max: float | Tensor, eta: float) -> tuple[float, float]:
    sigma_min, sigma_max = float(sigma_min), float(sigma_max)
    if sigma_min <= 0 or sigma_max <= 0:
        raise ValueError(f"sigma_min, sigma_max: expected numbers > 0, got {sigma_min}, {sigma_max}")
    if eta and sigma_min >= sigma_max:
        raise ValueError(f"eta: expected 0 where the noise level rises, got {eta}")
    return sigma_min, sigma_max


def _process(model: Denoiser) -> Schedule:
    """The forward process by which noise is added back."""
    return EDM if flow_sampling(model) is None else FLOW


def _down(process: Schedule, s: float, t: float, eta: float, sigma_min: float) -> float:
    """The sigma that the solver steps down to, at least sigma_min; noise takes x from there up to t."""
    if not eta:
        return t
    if process is FLOW:
        return max(sigma_down(s, t, eta), sigma_min)
    return max(t * step_down(process.at(s), process.at(t), eta)[0], sigma_min)


def _noised(
    x: Tensor, process: Schedule, sigmas: tuple[float, float, float], s_noise: float, draw: Draw | None
) -> Tensor:
    """x with noise added, from the second of the sigmas up to the third; the step began at the first."""
    begin, down, end = sigmas
    if down == end:
        return x
    low, high = process.at(down), process.at(end)
    kept = float(high.alpha / low.alpha)
    # end^2 - (kept down)^2 as a product, without cancellation: what the forward process adds on the way up.
    spread = s_noise * math.sqrt(max(0.0, (end - kept * down) * (end + kept * down)))
    return solver_step(x, x, make_row(a_x=kept, A=[0.0, spread]), history=[draw(begin, end).to(x.dtype)]).x


ON_SIGMA_RANGE = {"sample_dpm_fast": sample_dpm_fast, "sample_dpm_adaptive": sample_dpm_adaptive}


def on_sigmas(name: str) -> Callable[..., Tensor]:
    """One of ON_SIGMA_RANGE as the other samplers are called: fn(model, x, sigmas, extra_args, callback, disable, ...).

    It goes from sigmas[0] to the last sigma above 0. sample_dpm_fast makes as many evaluations as there are steps.
    """
    function = ON_SIGMA_RANGE[name]

    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Extra = None,
        callback: Callback = None,
        disable: bool | None = None,
        **options: object,
    ) -> Tensor:
        sigmas = read_sigmas(sigmas).tolist()
        if len(sigmas) < 2:
            return x
        count = {"n": len(sigmas) - 1} if function is sample_dpm_fast else {}
        # log sigma has no end at 0.
        last = sigmas[-1] or sigmas[-2]
        return function(
            model, x, last, sigmas[0], **count, extra_args=extra_args, callback=callback, disable=disable, **options
        )

    sample.__name__ = sample.__qualname__ = name
    sample.__doc__ = function.__doc__
    return sample

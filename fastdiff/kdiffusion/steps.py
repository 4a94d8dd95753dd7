"""sample_dpm_fast and sample_dpm_adaptive: DPM-Solver between two noise levels (Lu et al. 2022, arXiv 2206.00927)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..adaptive import Controller, scaled_error
from ..ops import make_row, solver_step
from ..plan import Row
from ..schedule import Points
from ..solvers.ancestral import step_down
from ..solvers.embedded import embedded_step
from ..solvers.exponential import singlestep
from .loop import EDM, Denoiser, Draw, NoiseSampler, brownian, evaluator, show, start

Extra = dict[str, object] | None
Callback = Callable[[dict], object] | None


@torch.no_grad()
def sample_dpm_fast(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    n: int,
    extra_args: Extra = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-fast: n evaluations in third-order steps, uniform in log sigma, the last ones of lower order.

    x [B, ...] goes from sigma_max to sigma_min; with sigma_max < sigma_min and eta = 0 it is encoded. callback sees
    "t" and "t_up", -log sigma, too.
    """
    _check(sigma_min, sigma_max, eta)
    if n < 1:
        raise ValueError(f"n: expected a whole number >= 1, got {n}")
    orders = [3] * (n // 3 - 1) + [2, 1] if n % 3 == 0 else [3] * (n // 3) + [n % 3]
    times = np.linspace(-math.log(sigma_max), -math.log(sigma_min), len(orders) + 1)
    points = _points(times)
    draw = brownian(x, extra_args, noise_sampler, x) if eta else None
    steps = [_down(points.at(i), points.at(i + 1), eta, sigma_min) for i in range(len(orders))]
    rows = []
    for i, order in enumerate(orders):
        s, (down, up) = points.at(i), steps[i]
        ends = Points(*(np.array(v) for v in zip(s, down, strict=True)))
        step = singlestep(EDM, ends, "sample", order=order, form="noise")
        step[-1] = _with_noise(step[-1], s_noise * up, i + 1)
        rows += step
    run = start(rows, sigma_min, x)
    evaluate = evaluator(model, [row.sigma for row in rows], x, extra_args)
    with tqdm(total=n, disable=disable) as progress:
        step, begins = 0, True
        for i, row in enumerate(rows):
            denoised = evaluate(run.model_input, i)
            progress.update()
            if begins and callback is not None:
                time = torch.tensor(times[step], dtype=x.dtype)
                sigma = time.neg().exp()
                show(
                    callback, run, x.dtype, i=step, sigma=sigma, sigma_hat=sigma, t=time, t_up=time, denoised=denoised
                )  # fmt: skip
            ends = float(points.sigma[step]), float(points.sigma[step + 1])
            run.advance(denoised, noises=[draw(*ends).to(run.x.dtype)] if row.x.noise else [])
            begins = row.accepts
            step += begins
    return run.x.to(x.dtype)


@torch.no_grad()
def sample_dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
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
    """DPM-Solver-12 or -23 with steps of controlled error, from sigma_max to sigma_min (or up, with eta = 0).

    See `fastdiff.adaptive` for the error and the controller. callback sees "t", "t_up", "error", "h", "steps", "nfe",
    "n_accept", "n_reject" too, after each attempt; return_info returns the last four. The host reads the error once
    an attempt.
    """
    _check(sigma_min, sigma_max, eta)
    if order not in (2, 3):
        raise ValueError(f"order: expected 2 or 3, got {order}")
    forward = sigma_min < sigma_max
    sign = 1 if forward else -1
    draw = brownian(x, extra_args, noise_sampler, x) if eta else None
    controller = Controller(sign * abs(h_init), 1.5 if eta else order, pcoeff, icoeff, dcoeff, accept_safety)
    info = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}
    time, last = -math.log(sigma_max), -math.log(sigma_min)
    now = before = x
    with tqdm(disable=disable) as progress:
        while sign * (last - time) > 1e-5:
            target = min(last, time + controller.h) if forward else max(last, time + controller.h)
            s, t = _point(time), _point(target)
            down, up = _down(s, t, eta, sigma_min)
            rows = embedded_step(EDM, s, down, "sample", f"dpm_{order - 1}{order}")
            run = start(rows, float(down.sigma), now)
            evaluate = evaluator(model, [row.sigma for row in rows], x, extra_args)
            first = None
            for i in range(order):
                denoised = evaluate(run.model_input, i)
                first = denoised if first is None else first
                run.advance(denoised)
                progress.update()
            error = scaled_error(run.x, run.base, before, rtol, atol)
            if controller.propose(error):
                before, now, time = run.base, _noised(run.x, s_noise * up, draw, s, t), target
                info["n_accept"] += 1
            else:
                info["n_reject"] += 1
            info["nfe"] += order
            info["steps"] += 1
            if callback is not None:
                at = torch.tensor(time, dtype=x.dtype)
                values = {"t": at, "t_up": at, "sigma": at.neg().exp(), "sigma_hat": at.neg().exp(), "h": controller.h}
                values |= {"i": info["steps"] - 1, "denoised": first, "error": torch.tensor(error), **info}
                callback({"x": now.to(x.dtype, copy=True), **values})
    result = now.to(x.dtype)
    return (result, info) if return_info else result


def _check(sigma_min: float, sigma_max: float, eta: float) -> None:
    if sigma_min <= 0 or sigma_max <= 0:
        raise ValueError(f"sigma_min, sigma_max: expected numbers > 0, got {sigma_min}, {sigma_max}")
    if eta and sigma_min >= sigma_max:
        raise ValueError(f"eta: expected 0 where the noise level rises, got {eta}")


def _points(times: np.ndarray) -> Points:
    sigma = np.exp(-times)
    return Points(sigma, np.ones_like(sigma), sigma)


def _point(time: float) -> Points:
    return _points(np.float64(time))


def _down(s: Points, t: Points, eta: float, sigma_min: float) -> tuple[Points, float]:
    """Where the solver goes, and the noise up to t from there; it goes no lower than sigma_min."""
    if not eta:
        return t, 0.0
    level = max(float(t.sigma) * step_down(s, t, eta)[0], sigma_min)
    return _point(-math.log(level)), math.sqrt(max(0.0, (float(t.sigma) - level) * (float(t.sigma) + level)))


def _with_noise(row: Row, weight: float, index: int) -> Row:
    return replace(row, x=replace(row.x, noise=((index, weight),))) if weight else row


def _noised(x: Tensor, weight: float, draw: Draw | None, s: Points, t: Points) -> Tensor:
    if not weight:
        return x
    noise = draw(float(s.sigma), float(t.sigma)).to(x.dtype)
    return solver_step(x, x, make_row(a_x=1.0, A=[0.0, weight]), history=[noise]).x

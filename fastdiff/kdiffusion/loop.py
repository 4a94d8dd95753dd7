"""The loop behind every sample_* function: a solver's rows on the caller's sigmas, with k-diffusion's callbacks.

k-diffusion's model is a denoiser D(x, sigma) of x = x0 + sigma eps: the EDM form, alpha = 1 and prediction "sample".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..catalogue import find_solver
from ..ops.reference import compute_dtype
from ..plan import Line, Plan, Row
from ..run import Run
from ..schedule import Points, Schedule
from .brownian import BrownianPath, BrownianTreeNoiseSampler, batch_seeds

Denoiser = Callable[..., Tensor]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[float, float], Tensor]

EDM = Schedule.edm(sigma_min=1e-12, sigma_max=1e12)  # the bounds are the caller's sigmas


def solve(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    solver: str,
    *,
    extra_args: dict[str, object] | None,
    callback: Callable[[dict], object] | None,
    disable: bool | None,
    draw: Draw | None = None,
    whole: bool = False,
    schedule: Schedule = EDM,
    **options: object,
) -> Tensor:
    """x [B, ...] from sigmas[0] to sigmas[-1], by a solver of the catalogue.

    draw(sigma, sigma_next): unit noise like x for a row that draws; over the stretch since the last draw of the step,
    or over the step so far (`whole`), a row's noises being one. options: the solver's.
    """
    levels = read_levels(sigmas)
    points = Points(schedule.t_of_log_snr(-np.log(np.maximum(levels, 1e-300))), np.ones_like(levels), levels)
    rows = find_solver(solver)[0].build(schedule, points, "sample", **options)
    rows = [_one_noise(row) for row in rows] if whole else rows
    run = start(rows, levels[-1], x)
    if rows[0].sigma > levels[0]:  # churn before the first step
        spread = math.sqrt((rows[0].sigma - levels[0]) * (rows[0].sigma + levels[0]))
        run.x.add_(draw(levels[0], rows[0].sigma), alpha=options["s_noise"] * spread)
        run.refresh_input()
    evaluate = evaluator(model, [row.sigma for row in rows], x, extra_args)
    since = 0.0
    progress = tqdm(total=len(levels) - 1, disable=disable)
    with progress:
        step, begins = 0, True
        for i, row in enumerate(rows):
            denoised = evaluate(run.model_input, i)
            if begins:
                since = row.sigma
                if callback is not None:
                    hat = sigmas[step] * (row.sigma / levels[step])
                    show(callback, run, x.dtype, i=step, sigma=sigmas[step], sigma_hat=hat, denoised=denoised)
            end = rows[i + 1].sigma if i + 1 < len(rows) else levels[-1]
            noises = []
            for _ in _indices(row):
                noises.append(draw(since, end).to(run.x.dtype))
                since = since if whole else end
            run.advance(denoised, noises=noises)
            begins = row.accepts
            step += begins
            progress.update(int(begins))
    return run.x.to(x.dtype)


def read_levels(sigmas: Tensor) -> np.ndarray:
    """The caller's noise levels, float64: the one time that the host reads them. Raises ValueError naming sigmas."""
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas: expected a torch.Tensor, got {type(sigmas).__name__}")
    levels = sigmas.detach().double().cpu().numpy()
    if levels.ndim != 1 or len(levels) < 1:
        raise ValueError(f"sigmas: expected a sequence of noise levels, got shape {tuple(sigmas.shape)}")
    steps = np.diff(levels)
    if not np.isfinite(levels).all() or (levels[:-1] <= 0).any() or levels[-1] < 0:
        raise ValueError(f"sigmas: expected numbers > 0, the last one >= 0, got {levels}")
    if not (np.all(steps < 0) or np.all(steps > 0)):
        raise ValueError(f"sigmas: expected levels that fall (or rise) strictly, got {levels}")
    return levels


def start(rows: Sequence[Row], end: float, x: Tensor) -> Run:
    """A run of the rows from x, which is not written to."""
    plan = Plan(tuple(rows), (1.0, float(end)), "sample")
    return Run(plan, x.to(compute_dtype(x.dtype), copy=True), model_dtype=x.dtype)


def evaluator(
    model: Denoiser, sigmas: Sequence[float], x: Tensor, extra_args: dict[str, object] | None
) -> Callable[[Tensor, int], Tensor]:
    """(model input, i) -> the denoised output at level i; the levels go to the device once."""
    levels = torch.tensor(sigmas, dtype=x.dtype).to(x.device, non_blocking=True)
    levels = levels[:, None].expand(-1, len(x)).contiguous().unbind(0)
    kwargs = extra_args or {}
    return lambda x, i: model(x, levels[i], **kwargs)


def show(callback: Callable[[dict], object], run: Run, dtype: torch.dtype, **values: object) -> None:
    """Call back with a copy of x: the run's buffers are written again."""
    callback({"x": run.x.to(dtype, copy=True), **values})


def brownian(x: Tensor, extra_args: dict[str, object] | None, noise_sampler: NoiseSampler | None, like: Tensor) -> Draw:
    """The given noise sampler, called with tensors like `like`; or Brownian paths over sigma of extra_args' seed."""
    if noise_sampler is None:
        return BrownianPath(x, batch_seeds((extra_args or {}).get("seed"), len(x))).increment
    if isinstance(noise_sampler, BrownianTreeNoiseSampler):
        return noise_sampler  # reads numbers: tensors on a device would make it wait
    return lambda *ends: noise_sampler(*(torch.tensor(s, dtype=like.dtype, device=like.device) for s in ends))


def _indices(row: Row) -> set[int]:
    return {j for line in (row.x, row.base) if line is not None for j, _ in line.noise}


def _one_noise(row: Row) -> Row:
    """The row with its independent noises as one of the same variance."""
    if len(row.x.noise) < 2:
        return row
    noise = ((max(j for j, _ in row.x.noise), math.hypot(*(w for _, w in row.x.noise))),)
    return replace(row, x=Line(row.x.base, row.x.x, row.x.history, noise))

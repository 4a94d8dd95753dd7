"""The loop behind every sample_* function: a solver's rows on the caller's sigmas, with k-diffusion's callbacks.

k-diffusion's model is a denoiser D(x, sigma) for x = x0 + sigma eps. That is the EDM form: alpha = 1, prediction
"sample". Rectified-flow models of a host have x = (1 - sigma) x0 + sigma eps; see `flow`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..ops.reference import compute_dtype
from ..plans.catalogue import find_solver
from ..plans.plan import Plan
from ..plans.row import Row, with_one_noise
from ..plans.schedule import Points, Schedule
from ..plans.solvers.ancestral import ddim_row
from ..sampling.run import Run
from .caller_sigmas import points_at, read_sigmas, segments
from .flow import FLOW, finite_log_snr, flow_sampling
from .guidance import OTHER, Build, Unconditional, reads_other
from .noise import Draw, Extra

Denoiser = Callable[..., Tensor]

EDM = Schedule.edm(sigma_min=1e-12, sigma_max=1e12)  # the bounds are the caller's sigmas


def solve(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    solver: str | Build,
    *,
    extra_args: Extra,
    callback: Callable[[dict], object] | None,
    disable: bool | None,
    draw: Draw | None = None,
    whole: bool = False,
    schedule: Schedule = EDM,
    log_snr: bool = False,
    one_step: bool = False,
    rise: float = 0.0,
    uncond: Unconditional | None = None,
    **options: Any,
) -> Tensor:
    """Take x [B, ...] from sigmas[0] to sigmas[-1] with a solver of the catalogue or a builder of rows.

    draw(sigma, sigma_next): unit noise like x for a row that draws. It covers the interval since the step's last draw,
    or the whole step so far (`whole`, which merges a row's noises into one). log_snr: the solver works in log SNR, so
    on a rectified flow it uses the flow's schedule. one_step: steps are independent of each other; other solvers
    restart at each of `segments`. rise: the share of fresh noise where sigma rises, 0 for ODE solvers. uncond: for
    CFG++, where the model gets its arguments. options: the solver's own.
    """
    sigma = read_sigmas(sigmas)
    if len(sigma) < 2:
        return x
    flow = flow_sampling(model) if log_snr else None
    if flow is not None:
        schedule, sigmas = FLOW, finite_log_snr(sigmas, flow)
        sigma = read_sigmas(sigmas)
    plain = all(isinstance(value, (str, int, float, NoneType)) for value in options.values())
    find = _course if plain else _course.__wrapped__  # a function is of this call, and is not kept for others
    course = find(solver, schedule, sigma.tobytes(), one_step, rise, whole, **options)
    if course is None:
        return x
    plan = course.plan
    run, rows = _run_of(plan, x), plan.rows
    if rows[0].sigma > sigma[0]:
        _churn_first(run, course.begin, draw, options["s_noise"])
    kwargs, moves = (extra_args if uncond is None else uncond.extra_args) or {}, run.moves
    begun = iter(course.steps)
    since, begins = 0.0, True
    latest: list[Tensor] = []

    def evaluate(given: Tensor, t: Tensor) -> tuple[Tensor, None, list[Tensor]]:
        nonlocal since, latest
        i, row, dtype = run.i, rows[run.i], run.x.dtype
        denoised = model(given, t, **kwargs)
        if begins:
            step, since = next(begun), row.sigma
            if callback is not None:
                hat = sigmas[step] * (row.sigma / sigma[step])
                show(callback, run, x.dtype, i=step, sigma=sigmas[step], sigma_hat=hat, denoised=denoised)
        end = rows[i + 1].sigma if i + 1 < len(rows) else sigma[-1]
        output, noises = denoised, latest[-1:] if course.again[i] else []
        if uncond is not None:
            output, other = uncond.operands(denoised)
            noises += [other.to(dtype)] if reads_other(row) else []
        for _ in range(moves[i].noises - len(noises)):
            noises.append(draw(since, end).to(dtype))
            since = since if whole else end
        latest = noises
        return output, None, noises

    with tqdm(total=len(sigma) - 1, disable=disable) as progress:
        for i in run.steps(evaluate, run.times([row.sigma for row in rows], x.dtype)):
            begins = rows[i].accepts
            progress.update(int(begins))
    return run.x.to(x.dtype)


class _Course(NamedTuple):
    """The caller's sigmas as a plan.

    begin: the first of them. steps: the places of those that a step begins at. again: which rows read the latest noise
    of the row before, as correctors of a step with noise do.
    """

    plan: Plan
    begin: Points
    steps: tuple[int, ...]
    again: tuple[bool, ...]


@functools.lru_cache(maxsize=32, typed=True)
def _course(
    solver: str | Build, schedule: Schedule, sigmas: bytes, one_step: bool, rise: float, whole: bool, **options: Any
) -> _Course | None:
    """The course of a solver, kept for the next image: making it takes longer than running its rows. None if empty."""
    sigma = np.frombuffer(sigmas)
    points = points_at(schedule, sigma)
    parts = [np.arange(len(sigma))] if one_step else segments(sigma, turn=rise > 0)
    pieces = [_segment(solver, schedule, points.at(part), rise, options) for part in parts]
    pieces = [list(map(with_one_noise, piece)) for piece in pieces] if whole else pieces
    rows = [row for piece in pieces for row in piece]
    if not rows:
        return None
    again = [repeats for piece in pieces for repeats in _again(piece)]
    steps = np.concatenate([part[:-1] for part in parts]).tolist()
    plan = Plan(tuple(rows), (float(points.alpha[-1]), float(sigma[-1])), "sample")
    return _Course(plan, points.at(0), tuple(steps), tuple(again))


def _again(rows: Sequence[Row]) -> list[bool]:
    """Which rows of a segment read a noise that the row before has drawn."""
    drawn = [{j for line in (row.x, row.base) if line for j, _ in line.noise if j != OTHER} for row in rows]
    return [False] * bool(rows) + [bool(now & before) for before, now in itertools.pairwise(drawn)]


def _segment(solver: str | Build, schedule: Schedule, points: Points, rise: float, options: dict) -> list[Row]:
    """The rows of one segment. Where sigma rises, they are the forward process, with `rise` as the share of noise."""
    if rise and points.sigma[-1] > points.sigma[0]:
        ends = [(points.at(i), points.at(i + 1)) for i in range(len(points.t) - 1)]
        return [ddim_row(s, t, "sample", i + 1, min(1.0, rise), options["s_noise"]) for i, (s, t) in enumerate(ends)]
    build = solver if callable(solver) else find_solver(solver)[0].build
    return build(schedule, points, "sample", **options)


def start(rows: Sequence[Row], end: tuple[float, float], x: Tensor) -> Run:
    """A run of the rows from a copy of x [B, ...]. end: (alpha, sigma) of the result."""
    return _run_of(Plan(tuple(rows), end, "sample"), x)


def _run_of(plan: Plan, x: Tensor) -> Run:
    state = x.to(compute_dtype(x.dtype), copy=True)
    return Run(plan, state, model_dtype=x.dtype, given_noise=True, watched=False)


def show(callback: Callable[[dict], object], run: Run, dtype: torch.dtype, **values: object) -> None:
    """Call back with a copy of x, since the run will overwrite its buffers."""
    callback({"x": run.x.to(dtype, copy=True), **values})


def _churn_first(run: Run, begin: Points, draw: Draw, s_noise: float) -> None:
    """Add noise to x by the forward process, from the caller's first sigma up to where the first row begins."""
    row = run.plan.rows[0]
    kept = row.alpha / float(begin.alpha)
    low = kept * float(begin.sigma)
    noise = draw(float(begin.sigma), row.sigma)
    run.x.mul_(kept).add_(noise, alpha=s_noise * math.sqrt((row.sigma - low) * (row.sigma + low)))
    run.refresh_input()

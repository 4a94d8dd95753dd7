"""`fit`: what it is asked for, and the checks of that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from ..plans.schedule_argument import require_schedule
from ..sampling.gaussian import GaussianStart
from ..sampling.model import Model, is_guided
from ..sampling.ranks import Ranks
from . import cheap_calls
from .budget import Budget
from .conditions import read_conditions
from .course import Course, digest
from .folder import Folder
from .frozen import frozen
from .journal import Journal, Trial
from .memory import allowed
from .parallel import MAX_PARALLEL
from .target import FitTarget

MIN_SAMPLES = 4
MOST_BATCH = 64  # samples per model call, where the user does not say
MAX_TRACED = 32  # samples whose trajectories the forward fit sees
METHODS = ("forward", "full")


def fit(
    model: Model,
    schedule: Schedule,
    steps: int,
    noise: Tensor,
    *,
    prediction: str | None = None,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    reuse_uncond: bool = False,
    model_dtype: torch.dtype | None = None,
    conditions: Iterable[Mapping[str, Tensor]] | None = None,
    head: GaussianStart | int | None = None,
    parallel: int = 1,
    method: str = "forward",
    cheap: float | None = None,
    held_out: float = 0.25,
    iterations: int = 100,
    batch: int | None = None,
    save_memory: bool = False,
    tolerance: float | None = None,
    seconds: float | None = None,
    evaluations: int | None = None,
    memory: int | None = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    progress: bool = False,
    report: Callable[[Trial], object] | None = None,
    group: Any = None,
    **kwargs: object,
) -> Plan:
    """The plan of `steps` model evaluations whose samples are closest to the model's converged ones.

    First draws reference trajectories: the model's own, with so many steps that they have converged. Then

    - method="forward" fits the rows of a plan one after the other, each by least squares to the trajectories, and moves
      the grid and the model's times until those fits are best. It asks for forward calls alone, on at most 32 samples.
    - method="full" goes on with all numbers together, by Gauss-Newton steps: at first with slopes by finite
      differences, then by gradients of the whole run where they come back through the model (arXiv 2403.01329,
      2502.17423, 2510.17699). More samples help there: a few hundred.

    Plans are compared by their mean distance from the converged samples, on samples that they were not fitted to; the
    distance of a sample is its root mean square difference. The best plan of all stages is returned. Plans of the
    catalogue, every ODE solver on every grid, are raced beside them: all that a linear model around the trajectories
    does not put at more than four times the fitted plan's distance.

    model, guidance, uncond, guidance_mode, model_dtype: as for `fastdiff.sample`. prediction: as for `fastdiff.plan`.
        With `fastdiff.cached(model)` plans with more rows are fitted too, some of them cheap, that cost no more than
        `steps` full evaluations. The best one is returned where it is better than those of `steps` full rows.
    noise: [N, ...] unit Gaussian noise, N at least 4; 8 to 32 for the forward fit, hundreds for the full one. Tensors
        in `kwargs`, `uncond` and `guidance` whose first dimension is N are split with it.
    conditions: more keyword arguments of the model, as an iterable of dicts of tensors, each of a batch of any size,
        such as a generator that encodes prompts. It is read once, in order, as far as samples need it: the first 32 of
        the noises in a forward fit, all in a full one.
    cheap: what a cheap call costs, in full evaluations, in (0, 1); measured on `batch` samples where not given, once
        for a folder.
    held_out: the share of the samples that the full fit compares plans by; it is fitted to the others. The forward fit
        leaves each quarter of its samples out in turn.
    head: a `GaussianStart`, or its rank: one of that rank is then estimated from the references and kept as
        STEPS/head.safetensors in the folder. Where the plan begins is fitted too; it runs as
        `sample(model, plan, head(noise, plan))`.
    parallel: evaluations that each model call makes, at most 4. `steps` are then calls: the plan has `parallel` rows
        for each, whose states are known together, and `sample(..., parallel=True)` makes them in one call. The
        catalogue's plans are tried with as many calls of one evaluation. Not with head.
    iterations: of the descent by gradients. With guidance more can pay.
    reuse_uncond: under guidance, whether plans are tried that make no unconditional call at some rows, where u comes
        from the rows before, and have more rows for it: as many network evaluations as `steps` rows with both calls.
        `fastdiff.sample` runs such a plan with the same guidance; other packages' loops, which hand over the guided
        output alone, refuse it.
    batch: samples per model call, whose memory the fit takes; None is as many as there are noises, at most 64.
        save_memory: recompute activations instead of keeping those of all steps.
    tolerance: the references count as converged where they change by less than this share of their size when the steps
        are doubled. None is 0.002, or 3 % of what the best of three solvers with `steps` evaluations errs, if that is
        more; where a doubling helps little or the budget is short, half of that error has to do.
    seconds, evaluations: the budget. One evaluation is one model call on one sample, forwards or backwards, and a cheap
        one the share of it that it costs. Fewer trajectories are drawn where there is no room for all. When it is
        spent, the best plan so far is returned, as soon as there are trajectories.
    memory: bytes that the trajectories may take, on the noise's device; None is a quarter of what is free there. Larger
        ones are left in files, in the folder or temporary ones, and read a little at a time; the plan is the same but
        for the model's rounding in other batches.
    folder: keeps the trajectories and the references, for fits with any number of steps, and every stage in a folder
        named by the number of steps. The same call with the same folder resumes there. A file that is truncated,
        changed or another fit's is an error that names it.
    seed: of the batches. progress: show tqdm bars.
    report: called with every `Trial`; `print` will do, under `print(fastdiff.fitting.HEADER)`. Among them are notes:
        what is ahead in evaluations, in seconds at the pace of the first calls and in memory, and at the end what it
        came to.
    group: where torch.distributed is initialised, the processes that share the model's calls, all where not given. Each
        makes the same call of `fit` and gets the same plan. A group of one process fits alone. The first one reads and
        writes the folder, reports and shows progress.
    kwargs: keyword arguments of the model.

    While the fit runs, the model's modules are in evaluation mode and no parameter asks for a gradient; afterwards all
    are as before. The forward fit keeps no graph.

    Raises ValueError or TypeError naming the argument: too few samples, a model that returns NaN or is not
    deterministic, references that do not converge, a folder of another fit, parallel evaluations by a model that reads
    one time for all samples of a call, cheap= for a model without cheap calls, and method="full" or parallel
    evaluations for one with them. Raises RuntimeError where the budget is spent before the references have converged.
    """
    _check(noise, held_out, method, steps=steps, iterations=iterations, batch=1 if batch is None else batch)
    batch = min(len(noise), MOST_BATCH) if batch is None else batch
    _require_positive(tolerance=tolerance, seconds=seconds, evaluations=evaluations, memory=memory)
    able = cheap_calls.check(model, cheap, method)
    _check_kind(parallel, head, able, reuse_uncond, guidance)
    if isinstance(head, int) and folder is None:
        raise ValueError("head: a rank needs a folder, where head.safetensors is kept; got folder=None")
    require_schedule(schedule)
    held_out_count = max(1, round(held_out * len(noise)))
    traced = min(len(noise) - held_out_count if method == "full" else len(noise), MAX_TRACED)
    each = {} if conditions is None else read_conditions(conditions, len(noise) if method == "full" else traced)
    check_keywords(model, [*kwargs, *each], options_of(fit))
    if twice := sorted(set(kwargs) & set(each)):
        raise ValueError(f"conditions: {', '.join(twice)} is a keyword argument too")
    prediction = schedule.default_prediction if prediction is None else prediction
    ranks = Ranks(group)
    ranks.require_same(
        noise=digest(noise), steps=steps, prediction=prediction, method=method, held_out=held_out_count, batch=batch,
        iterations=iterations, tolerance=tolerance, seconds=seconds, evaluations=evaluations, seed=seed,
        parallel=parallel,
    )  # fmt: skip
    budget = Budget(seconds, evaluations, ranks)
    target = FitTarget(model, noise, budget, batch, guidance, uncond, guidance_mode, model_dtype, kwargs, each, ranks)
    kept = Folder(None if folder is None else Path(folder), ranks)
    name = f"{steps}" if parallel == 1 else f"{steps}x{parallel}"
    course = Course(
        target, schedule, prediction, steps, kept, Journal(kept.within(name), report),
        parallel=parallel, full=method == "full", traced=traced, held_out=held_out_count, iterations=iterations,
        tolerance=tolerance,
        memory=allowed(noise.device, ranks.count) if memory is None else memory, head=head, seed=seed,
        save_memory=save_memory, progress=progress and ranks.is_first, cheap_calls=able, cheap=cheap,
        reuse_uncond=reuse_uncond,
    )  # fmt: skip
    with frozen(model):
        best = course.run()
    return replace(best, schedule=schedule.knots())


def _check_kind(
    parallel: int, head: GaussianStart | int | None, cheap: bool, reuse_uncond: bool, guidance: float | Tensor | None
) -> None:
    """Of rows that make several evaluations, a cheap one, or none without the condition: one kind at a time."""
    if not isinstance(parallel, int) or not 1 <= parallel <= MAX_PARALLEL:
        raise ValueError(f"parallel: expected a whole number from 1 to {MAX_PARALLEL}, got {parallel!r}")
    if parallel > 1 and head is not None:
        raise ValueError("head: not with parallel evaluations")
    if parallel > 1 and cheap:
        raise ValueError("parallel: not with a model that has cheap calls; pass the model without them")
    if reuse_uncond and not is_guided(guidance):
        raise ValueError(f"reuse_uncond: without guidance there is no unconditional call, got guidance={guidance}")
    if reuse_uncond and (parallel > 1 or cheap):
        raise ValueError("reuse_uncond: not with parallel evaluations, nor with a model that has cheap calls")


def _require_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")


def _check(noise: Tensor, held_out: float, method: str, **counts: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method: expected {' or '.join(map(repr, METHODS))}, got {method!r}")
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
    checks.require_float("noise", noise)
    shape = tuple(noise.shape)
    if noise.ndim < 2 or len(noise) < MIN_SAMPLES:
        raise ValueError(f"noise: expected [N, ...] with at least {MIN_SAMPLES} samples, got shape {shape}")
    if not 0 < held_out < 1 or len(noise) * (1 - held_out) < MIN_SAMPLES / 2:
        raise ValueError(f"held_out: expected a share in (0, 1) that leaves {MIN_SAMPLES // 2} samples, got {held_out}")

"""Fit a plan to a model: fewer steps than any solver of the catalogue for the same error, without training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks
from ..plans.plan import Plan
from ..plans.schedule import Schedule, require_schedule
from ..sampling.model import Model
from .budget import Budget, Exhausted
from .files import write
from .gaussian import GaussianStart
from .journal import HEADER, Journal, Trial, claim
from .references import ReferenceSampler, check_model
from .search import first_plan
from .stages import Fit, run
from .target import FitTarget

__all__ = ["HEADER", "GaussianStart", "Trial", "fit"]

MIN_SAMPLES = 32


def fit(
    model: Model,
    schedule: Schedule,
    steps: int,
    noise: Tensor,
    *,
    prediction: str | None = None,
    guidance: float | Tensor | None = None,
    uncond: dict[str, object] | None = None,
    guidance_mode: str = "batch",
    model_dtype: torch.dtype | None = None,
    head: GaussianStart | int | None = None,
    held_out: float = 0.25,
    iterations: int = 100,
    start_iterations: int = 20,
    batch: int = 64,
    save_memory: bool = False,
    tolerance: float = 2e-3,
    seconds: float | None = None,
    evaluations: int | None = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    progress: bool = False,
    report: Callable[[Trial], object] | None = None,
    **conditions: object,
) -> Plan:
    """The plan of `steps` model evaluations whose samples lie nearest to the model's converged ones.

    Draws converged samples of the model itself, then tries in rising cost: every ODE solver of the catalogue on every
    grid; a grid by dynamic programming (GITS, arXiv 2405.11326); a grid and the times that the model is told, learned
    by gradients (LD3, arXiv 2405.15506); and with them all weights of the table (arXiv 2403.01329, 2502.17423,
    2510.17699), held near the theory's. Gauss-Newton steps, see `fastdiff.fitting.descent`. What counts is the mean
    over held-out samples of the root mean square distance from the converged ones; the best plan there comes back, so
    none is worse than the catalogue's best. A model without gradients gets the first two.

    model, prediction, guidance, uncond, guidance_mode, model_dtype: as for `fastdiff.sample` and `fastdiff.plan`.
    noise: [N, ...] unit Gaussian noise, at least 32 and better 500; tensors in `conditions`, `uncond` and `guidance`
        whose first dimension is N go with it. held_out: the share that only judges.
    head: a Gaussian head start, or the rank of one that is estimated from the converged samples and kept as
        STEPS/head.safetensors in the folder; where the plan begins is chosen with the rest, and it runs as
        `sample(model, plan, head(noise, plan))`.
    iterations: of the last stage; under guidance more can pay.
    start_iterations: of each of the three solvers that the weights are fitted from, before the best one goes on.
    batch: samples that the model sees at once. save_memory: recompute instead of keeping the activations of all steps.
    tolerance: relative change at which the converged samples count as converged.
    seconds, evaluations: the budget; an evaluation is one model call on one sample, forwards or backwards. Once it is
        spent, the best plan so far comes back: the catalogue's first one where none is judged yet, and RuntimeError
        where not even the converged samples have begun.
    folder: keeps the converged samples, for fits of any number of steps, and in a folder of its own for each number
        every stage; the same call with the same folder goes on where one stopped. Every file is checked before it is
        used: one that is cut, changed or another fit's is refused by name.
    progress: tqdm bars. report: called with every `Trial`, such as `print` (under `print(fastdiff.fitting.HEADER)`).
    Raises ValueError naming the argument: too few samples, a model that returns NaN or is not deterministic, samples
    that do not converge, a folder of another fit.
    """
    _check(noise, held_out, steps=steps, iterations=iterations, start_iterations=start_iterations, batch=batch)
    for name, value in (("tolerance", tolerance), ("seconds", seconds), ("evaluations", evaluations)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    if isinstance(head, int) and folder is None:
        raise ValueError("head: a rank needs a folder, where head.safetensors is kept; got folder=None")
    require_schedule(schedule)
    check_keywords(model, conditions, options_of(fit))
    prediction = schedule.default_prediction if prediction is None else prediction
    budget = Budget(seconds, evaluations)
    target = FitTarget(model, noise, budget, batch, guidance, uncond, guidance_mode, model_dtype, conditions)
    root = None if folder is None else Path(folder)
    journal = Journal(None if root is None else root / f"{steps}", report)
    held_out_count = max(1, round(held_out * len(noise)))
    converges = False
    try:
        fingerprint = check_model(target, schedule, prediction)
        shared = ""
        if root is not None and journal.folder is not None:
            shared = claim(
                root, schedule=schedule.knots(), prediction=prediction, noise=_digest(noise), model=fingerprint
            )
            head_name = _digest(head.mean) if isinstance(head, GaussianStart) else head
            journal.fit = claim(
                journal.folder,
                shared=shared, steps=steps, held_out=held_out_count, batch=batch, seed=seed, head=head_name,
            )  # fmt: skip
        sampler = ReferenceSampler(target, root, shared)
        converged = sampler.find_plan(schedule, prediction, tolerance)
        converges = True
        references = sampler.draw_references(converged, progress)
        if isinstance(head, int):
            head = _estimate_head(references[:-held_out_count], schedule, head, journal)
        task = Fit(target, schedule, references, held_out_count, journal, seed, head, save_memory, progress)
        run(task, converged, steps, iterations, start_iterations)
    except Exhausted:
        journal.note("budget", f"spent after {budget.seconds:.0f} s and {budget.evaluations} evaluations")
    if journal.best is None and not converges:
        raise RuntimeError(
            f"budget: {budget.seconds:.0f} s and {budget.evaluations} evaluations were spent before the model's samples"
            " converged; give it more"
        )
    best = first_plan(schedule, prediction, steps) if journal.best is None else journal.best[1]
    return replace(best, schedule=schedule.knots())


def _estimate_head(references: Tensor, schedule: Schedule, rank: int, journal: Journal) -> GaussianStart:
    """A head start from the samples that are fitted to, kept in the fit's folder."""
    assert journal.folder is not None  # as `fit` checks first
    head = GaussianStart.estimate(references, schedule, rank)
    write(journal.folder / "head.safetensors", head.save)
    return head


def _check(noise: Tensor, held_out: float, **counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
    checks.require_float("noise", noise)
    shape = tuple(noise.shape)
    if noise.ndim < 2 or len(noise) < MIN_SAMPLES:
        raise ValueError(f"noise: expected [N, ...] with at least {MIN_SAMPLES} samples, got shape {shape}")
    if not 0 < held_out < 1 or len(noise) * (1 - held_out) < MIN_SAMPLES / 2:
        raise ValueError(f"held_out: expected a share in (0, 1) that leaves {MIN_SAMPLES // 2} samples, got {held_out}")


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.detach().double().cpu().numpy().tobytes()).hexdigest()[:16]

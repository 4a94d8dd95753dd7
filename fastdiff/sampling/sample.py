"""sample and iter_sample: the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..keywords import check_keywords
from ..ops import checks
from ..plans.plan import Plan
from .model import Model, ModelCalls
from .run import Evaluate, Run
from .start import OPTIONS, check_sample, sample_seeds, start_state


@dataclass(frozen=True)
class Step:
    """One model evaluation and its update, as `iter_sample` yields it.

    i: 0 .. n - 1. t, alpha, sigma: where the model was evaluated. x: [B, ...] the state after the update; accepted:
    whether it is a solution at its time, not a stage inside a step. x, x0 are the run's buffers: clone what you keep.
    """

    i: int
    n: int
    t: float
    alpha: float
    sigma: float
    x: Tensor
    accepted: bool
    _run: Run
    _before: Tensor

    @property
    def x0(self) -> Tensor:
        """[B, ...] the data that this evaluation predicted."""
        return self._run.data_prediction(self.i, self._before)


def iter_sample(
    model: Model,
    plan: Plan,
    noise: Tensor,
    *,
    guidance: float | Tensor | None = None,
    uncond: dict[str, object] | None = None,
    guidance_mode: str = "batch",
    seeds: Sequence[int] | Tensor | None = None,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    **kwargs: object,
) -> Iterator[Step]:
    """Run a plan and yield a `Step` after every model evaluation. Arguments as for `sample`."""
    run, evaluate = _begin(
        model, plan, noise, guidance, uncond, guidance_mode, seeds, image, mask, clamp, threshold, threshold_limit,
        model_dtype, kwargs, watched=True,
    )  # fmt: skip
    return _steps(run, evaluate, noise, image, mask)


@torch.no_grad()
def sample(
    model: Model,
    plan: Plan,
    noise: Tensor,
    *,
    guidance: float | Tensor | None = None,
    uncond: dict[str, object] | None = None,
    guidance_mode: str = "batch",
    seeds: Sequence[int] | Tensor | None = None,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    callback: Callable[[Step], bool | None] | None = None,
    progress: bool = False,
    return_trajectory: bool = False,
    graph: bool | str = False,
    **kwargs: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw samples: start from `noise`, call the model once a row of the plan, return x0.

    model: model(x, t, **kwargs) -> prediction, a tensor, one alone in a tuple, or an object whose `sample` it is;
        x [B, ...], t [B] float in the schedule's units; kwargs are passed on, but misspelt options are refused.
    noise: [B, ...] unit Gaussian noise of any shape, float32, float64 or half precision; the state is float32 (float64
        for float64 noise), the model reads `model_dtype` (the noise's dtype where not given), the result has noise's.
    guidance: classifier-free guidance scale (Ho & Salimans 2022), a number or [B]: m_u + g (m_c - m_u).
    uncond: the keyword arguments that differ in the unconditional evaluation.
    guidance_mode: "batch" calls the model once on [unconditional; conditional] inputs, "calls" twice.
    seeds: one whole number a sample for the noise of stochastic solvers; drawn from torch's generator where not given.
    image: start from alpha image + sigma noise (with a plan made with start < 1: image to image).
    mask: broadcastable to x, 1 where to generate; elsewhere every accepted state is the image at its noise level.
    clamp: bound on |x0|. threshold: ratio of dynamic thresholding (Saharia et al. 2022), at most threshold_limit.
        Where a row keeps another form of output (noise, velocity), it is that of the bounded x0.
    callback: sees every `Step`; returning False ends the run and what is done so far comes back.
    progress: a tqdm bar. return_trajectory: also return the accepted states [K, B, ...], the start first.
    graph: capture model and steps as one CUDA graph and replay it, now and in later calls with the same module, shapes
        and number of rows (`fastdiff.capture`); the result is the same to the bit. "auto" runs without one where the
        model cannot be captured or the noise is on no CUDA device. Not with callback, progress, trajectory or mask.
    No gradients are recorded. Raises TypeError or ValueError naming the argument.
    """
    watched = callback is not None or progress or return_trajectory or mask is not None
    if graph:
        drawn = _from_graph(
            model, plan, noise, graph, watched, seeds, image, guidance=guidance, uncond=uncond,
            guidance_mode=guidance_mode, clamp=clamp, threshold=threshold, threshold_limit=threshold_limit,
            model_dtype=model_dtype, **kwargs,
        )  # fmt: skip
        if drawn is not None:
            return drawn
    run, evaluate = _begin(
        model, plan, noise, guidance, uncond, guidance_mode, seeds, image, mask, clamp, threshold, threshold_limit,
        model_dtype, kwargs, watched,
    )  # fmt: skip
    if not watched:
        return run.drive(evaluate, run.times()).to(noise.dtype)
    steps = _steps(run, evaluate, noise, image, mask)
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=plan.nfe, desc=plan.solver, unit="call")
    trajectory = [run.x.clone()] if return_trajectory else []
    for step in steps:
        if return_trajectory and step.accepted:
            trajectory.append(step.x.clone())
        if callback is not None and callback(step) is False:
            break
    x = run.x.to(noise.dtype)
    return (x, torch.stack(trajectory).to(noise.dtype)) if return_trajectory else x


def _begin(
    model: Model,
    plan: Plan,
    noise: Tensor,
    guidance: float | Tensor | None,
    uncond: dict[str, object] | None,
    guidance_mode: str,
    seeds: Sequence[int] | Tensor | None,
    image: Tensor | None,
    mask: Tensor | None,
    clamp: float | None,
    threshold: float | None,
    threshold_limit: float,
    model_dtype: torch.dtype | None,
    kwargs: dict[str, object],
    watched: bool,
) -> tuple[Run, Evaluate]:
    """The run before its first row, and what evaluates the model, every argument checked."""
    check_sample(plan, noise, image, mask, clamp, threshold, threshold_limit, model_dtype)
    if kwargs:
        check_keywords(model, kwargs, OPTIONS)
    calls = ModelCalls(model, noise.shape, guidance, uncond, guidance_mode, kwargs)
    run = Run(
        plan,
        start_state(plan, noise, image),
        model_dtype=model_dtype or noise.dtype,
        copies=calls.copies,
        guidance=calls.guidance,
        seeds=sample_seeds(plan, noise, seeds),
        clamp=clamp,
        threshold=None if threshold is None else (threshold, threshold_limit),
        watched=watched,
    )
    return run, calls.evaluator()


def _steps(run: Run, evaluate: Evaluate, noise: Tensor, image: Tensor | None, mask: Tensor | None) -> Iterator[Step]:
    """A `Step` after every row, the masked part of x made anew."""
    before, plan = run.x, run.plan
    for i in run.steps(evaluate, run.times()):
        row = plan.rows[i]
        if mask is not None and image is not None and row.accepts:
            _keep_known(run, i, noise, image, mask)
        yield Step(i, plan.nfe, row.t, row.alpha, row.sigma, run.x, row.accepts, run, before)
        before = run.x


def _from_graph(
    model: Model,
    plan: Plan,
    noise: Tensor,
    graph: bool | str,
    watched: bool,
    seeds: Sequence[int] | Tensor | None,
    image: Tensor | None,
    **options: object,
) -> Tensor | None:
    """The samples, or None where graph="auto" has to do without."""
    if graph not in (True, "auto"):
        raise ValueError(f"graph: expected False, True or 'auto', got {graph!r}")
    if watched:
        raise ValueError("graph: a captured run has no callback, progress bar, trajectory or mask")
    checks.require_tensor("noise", noise)
    if not noise.is_cuda:
        if graph == "auto":
            return None
        raise ValueError(f"graph: expected noise on a CUDA device, got {noise.device}; graph='auto' does without")
    from .graph import CaptureError
    from .graph.cache import sample_captured

    try:
        return sample_captured(model, plan, noise, seeds, image, options)
    except CaptureError:
        if graph == "auto":
            return None
        raise


@torch.no_grad()
def _keep_known(run: Run, i: int, noise: Tensor, image: Tensor, mask: Tensor) -> None:
    """Put the image, at its noise level, where the mask is 0 (Lugmayr et al. 2022, eq. 8, without resampling)."""
    row = run.plan.rows[i]
    places = [(run.x, run.plan.point_after(i))]
    if run.base is not run.x:
        places.append((run.base, (row.alpha, row.sigma)))
    for x, (alpha, sigma) in places:
        known = alpha * image.to(x.dtype) + sigma * noise.to(x.dtype)
        x.copy_(torch.where(mask, x, known) if mask.dtype == torch.bool else known + mask * (x - known))
    run.refresh_input()

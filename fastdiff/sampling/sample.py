"""sample and iter_sample: the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..ops import checks
from ..plans.plan import Plan
from .model import Model, check_guidance, evaluator, input_copies, is_guided, kwargs_per_call
from .noise import seed_tensor
from .run import Run


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
        return self._run.data_prediction(self._before)


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
    check_sample(plan, noise, image, mask, clamp, threshold, threshold_limit, model_dtype)
    check_guidance(guidance, uncond, guidance_mode, len(noise))
    if kwargs:
        check_keywords(model, kwargs, options_of(sample, iter_sample))
    calls = kwargs_per_call(guidance, uncond, guidance_mode, kwargs, len(noise))
    copies = input_copies(guidance, guidance_mode)
    evaluate = evaluator(model, noise, calls, copies)
    run = Run(
        plan,
        start_state(plan, noise, image),
        model_dtype=model_dtype or noise.dtype,
        copies=copies,
        guidance=guidance if is_guided(guidance) else None,
        seeds=sample_seeds(plan, noise, seeds),
        clamp=clamp,
        threshold=None if threshold is None else (threshold, threshold_limit),
    )
    return _loop(run, plan, noise, evaluate, image, mask)


def _loop(
    run: Run, plan: Plan, noise: Tensor, evaluate: Callable, image: Tensor | None, mask: Tensor | None
) -> Iterator[Step]:
    times = torch.tensor([row.t for row in plan.rows], dtype=run.x.dtype).to(noise.device, non_blocking=True)
    times = times[:, None].expand(-1, len(run.model_input)).contiguous().unbind(0)
    for i, (row, t) in enumerate(zip(plan.rows, times, strict=True)):
        before = run.x
        with torch.no_grad():
            run.advance(*evaluate(run.model_input, t))
            if mask is not None and row.accepts:
                _keep_known(run, plan, i, noise, image, mask)
        yield Step(i, plan.nfe, row.t, row.alpha, row.sigma, run.x, row.accepts, run, before)


@torch.no_grad()
def sample(
    model: Model,
    plan: Plan,
    noise: Tensor,
    *,
    callback: Callable[[Step], bool | None] | None = None,
    progress: bool = False,
    return_trajectory: bool = False,
    graph: bool | str = False,
    **options: object,
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
    if graph:
        watched = callback is not None or progress or return_trajectory
        drawn = _from_graph(model, plan, noise, graph, watched, options)
        if drawn is not None:
            return drawn
    steps = iter_sample(model, plan, noise, **options)
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=plan.nfe, desc=plan.solver, unit="call")
    trajectory: list[Tensor] = []
    for step in steps:
        if return_trajectory and step.i == 0:
            trajectory.append(step._before.clone())
        if return_trajectory and step.accepted:
            trajectory.append(step.x.clone())
        if callback is not None and callback(step) is False:
            break
    x = step.x.to(noise.dtype)
    return (x, torch.stack(trajectory).to(noise.dtype)) if return_trajectory else x


def _from_graph(
    model: Model, plan: Plan, noise: Tensor, graph: bool | str, watched: bool, options: dict[str, object]
) -> Tensor | None:
    """The samples, or None where graph="auto" has to do without."""
    if graph not in (True, "auto"):
        raise ValueError(f"graph: expected False, True or 'auto', got {graph!r}")
    if watched or options.get("mask") is not None:
        raise ValueError("graph: a captured run has no callback, progress bar, trajectory or mask")
    checks.require_tensor("noise", noise)
    if not noise.is_cuda:
        if graph == "auto":
            return None
        raise ValueError(f"graph: expected noise on a CUDA device, got {noise.device}; graph='auto' does without")
    from .graph import CaptureError
    from .graph.cache import sample_captured

    try:
        return sample_captured(model, plan, noise, options)
    except CaptureError:
        if graph == "auto":
            return None
        raise


@torch.no_grad()
def start_state(plan: Plan, noise: Tensor, image: Tensor | None) -> Tensor:
    """The first x [B, ...], float32 or float64: the plan's scale times noise, or the image at its noise level."""
    dtype = torch.float64 if noise.dtype == torch.float64 else torch.float32
    alpha, sigma = plan.start
    state = noise.to(dtype) * (plan.init_scale if image is None else sigma)
    return state if image is None else state + alpha * image.to(dtype)


def sample_seeds(plan: Plan, noise: Tensor, seeds: Sequence[int] | Tensor | None) -> Tensor | None:
    """[B] int64 on noise's device: the seeds given, or drawn where the plan needs some."""
    if seeds is None and not plan.stochastic:
        return None
    drawn = torch.randint(2**62, (len(noise),)) if seeds is None else seeds
    return seed_tensor(drawn, len(noise), noise.device)


def _keep_known(run: Run, plan: Plan, i: int, noise: Tensor, image: Tensor, mask: Tensor) -> None:
    """Put the image, at its noise level, where the mask is 0 (Lugmayr et al. 2022, eq. 8, without resampling)."""
    places = [(run.x, plan.point_after(i))]
    if run.base is not run.x:
        places.append((run.base, (plan.rows[i].alpha, plan.rows[i].sigma)))
    for x, (alpha, sigma) in places:
        known = alpha * image.to(x.dtype) + sigma * noise.to(x.dtype)
        x.copy_(torch.where(mask, x, known) if mask.dtype == torch.bool else known + mask * (x - known))
    run.refresh_input()


def check_sample(
    plan: Plan,
    noise: Tensor,
    image: Tensor | None,
    mask: Tensor | None,
    clamp: float | None,
    threshold: float | None,
    threshold_limit: float,
    model_dtype: torch.dtype | None,
) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: expected a fastdiff.Plan, got {type(plan).__name__}")
    checks.require_float("noise", noise)
    if noise.ndim == 0:
        raise ValueError("noise: expected [B, ...], got a scalar")
    if model_dtype is not None and model_dtype not in checks.FLOATS:
        raise ValueError(f"model_dtype: expected a floating-point dtype, got {model_dtype}")
    if image is not None:
        checks.require_float("image", image)
        checks.require_shape("image", image, tuple(noise.shape))
        checks.require_device("image", image, noise)
    if mask is not None and image is None:
        raise ValueError("mask: expected the image beside it, got None")
    if mask is not None:
        checks.require_tensor("mask", mask)
        checks.require_device("mask", mask, noise)
        sizes = zip(reversed(mask.shape), reversed(noise.shape), strict=False)
        if mask.ndim > noise.ndim or any(m not in (1, n) for m, n in sizes):
            raise ValueError(f"mask: expected a shape that broadcasts to {tuple(noise.shape)}, got {tuple(mask.shape)}")
    for name, value in (("clamp", clamp), ("threshold", threshold)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value}")
    if threshold is not None and threshold > 1:
        raise ValueError(f"threshold: expected a ratio in (0, 1], got {threshold}")
    if not threshold_limit >= 1:
        raise ValueError(f"threshold_limit: expected a number >= 1, got {threshold_limit}")

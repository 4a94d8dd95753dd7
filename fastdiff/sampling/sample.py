"""sample and iter_sample: a plan's run, unwatched or step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..keywords import check_keywords
from ..ops import checks
from ..plans.plan import Plan
from .corrected import CorrectedCalls
from .correction import Correction, Observed
from .masked import keep_known
from .model import Model
from .parallel import TurnCalls, drive_in_turns, require_turns
from .particles import ParticleCalls, Particles
from .request import Calls, Request
from .rule import Guidance
from .run import Run
from .sharded import Sharded
from .start import OPTIONS, check_sample, sample_seeds, start_state


@dataclass(frozen=True)
class Step:
    """One model evaluation and its update, as `iter_sample` yields it.

    i: 0 to n - 1. t, alpha, sigma: where the model was evaluated. x: [B, ...] the state after the update. accepted:
    whether x is a solution at its time rather than a stage inside a step. evaluations: how often the network was
    evaluated for each sample: 2 under plain guidance, 0 where no output has weight. x and x0 are buffers that the run
    overwrites: clone what you keep.
    """

    i: int
    n: int
    t: float
    alpha: float
    sigma: float
    x: Tensor
    accepted: bool
    evaluations: int
    _run: Run
    _before: Tensor
    _calls: Calls

    @property
    def x0(self) -> Tensor:
        """[B, ...] the data predicted by this evaluation. Raises ValueError if the row does not read the model."""
        return self._run.data_prediction(self.i, self._before)

    @property
    def residual(self) -> Tensor:
        """[B] the mean of ((y - A x0) / noise)^2 under an observation: far above 1 where the correction did not fit.

        Raises ValueError without an observation.
        """
        observation = self._calls.observation if isinstance(self._calls, CorrectedCalls) else None
        if observation is None:
            raise ValueError("residual: the run has no observation")
        return observation.misfit(self.x0)

    @property
    def particles(self) -> Particles:
        """The weights of x in its groups. Raises ValueError in a run without particles."""
        if not isinstance(self._calls, ParticleCalls):
            raise ValueError("particles: the run has none")
        return self._calls.latest.particles()


def iter_sample(
    model: Model,
    plan: Plan,
    noise: Tensor,
    *,
    guidance: float | Tensor | Guidance | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    seeds: Sequence[int] | Tensor | None = None,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    observation: Observed | None = None,
    correction: str | Correction | Callable | None = None,
    particles: int = 1,
    guidance_group: object = None,
    shard: Sharded | None = None,
    **kwargs: object,
) -> Iterator[Step]:
    """Run a plan and yield a `Step` after every model evaluation. Arguments and errors are those of `sample`."""
    request = Request(
        guidance, uncond, guidance_mode, seeds, image, mask, clamp, threshold, threshold_limit, model_dtype,
        observation, correction, particles, guidance_group, shard, kwargs,
    )  # fmt: skip
    with torch.no_grad():
        run, calls = request.begin(model, plan, noise, watched=True)
    return run_steps(run, calls, noise, request)


@torch.no_grad()
def sample(
    model: Model,
    plan: Plan,
    noise: Tensor,
    *,
    guidance: float | Tensor | Guidance | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    seeds: Sequence[int] | Tensor | None = None,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    observation: Observed | None = None,
    correction: str | Correction | Callable | None = None,
    particles: int = 1,
    guidance_group: object = None,
    shard: Sharded | None = None,
    callback: Callable[[Step], bool | None] | None = None,
    progress: bool = False,
    return_trajectory: bool = False,
    graph: bool | str = False,
    parallel: bool = False,
    **kwargs: object,
) -> Tensor | tuple[Any, ...]:
    """Draw samples: start from `noise`, call the model once per row of the plan, and return x0 [B, ...].

    model: model(x, t, **kwargs) -> prediction [B, ...], for x [B, ...] and t [B] in the schedule's units. It returns a
        tensor, a tuple of one tensor, or an object with the tensor as `.sample`. A module whose time is another
        argument than the second is given it by name, and of one that learns a variance, as its configuration says, the
        first half of the channels is read. kwargs are the model's own; an unknown keyword is an error that names the
        nearest option.
    plan: from `fastdiff.plan`, `fastdiff.fit` or `Plan.load`. One with cheap rows needs a model that has cheap calls,
        `fastdiff.cached(model)`; one with rows that make no unconditional call needs a number, or [B], as guidance.
    noise: [B, ...] unit Gaussian noise of any shape, float64, float32, float16 or bfloat16. The state is float32, or
        float64 for float64 noise. The result has noise's dtype.
    guidance: scale g of classifier-free guidance (Ho & Salimans 2022), a number or [B]: m_u + g (m_c - m_u). Or one of
        `fastdiff.guidance`, such as `fd.guidance.APG(7.5)`: the model is not called for outputs that have no weight.
    uncond: the keyword arguments that are different in the unconditional evaluation.
    guidance_mode: "batch" calls the model once on [unconditional; conditional] inputs, "calls" makes a call for each,
        and with "ranks" each of several processes makes one and gets the others' outputs (docs/ranks.md).
    guidance_group: those processes, as a process group or a DeviceMesh of one dimension; all of them if None.
    seeds: B whole numbers, or an integer tensor [B], for the noise of stochastic solvers; from torch's generator if
        None.
    image: [B, ...] start from alpha image + sigma noise instead of noise alone; for image to image make the plan with
        start < 1.
    mask: broadcastable to x, 1 where to generate. Elsewhere every accepted state is `image` with the noise of its time.
    clamp: bound on |x0|. threshold: quantile for dynamic thresholding (Saharia et al. 2022, section 2.3), in (0, 1];
        threshold_limit: its largest bound. Both act on x0 whatever form a row's output has.
    model_dtype: dtype of the x that the model reads; noise's if None.
    observation: what is known of the samples, a `fastdiff.Observation` y = A x0 + noise: they are drawn given y.
    correction: how, by name: "moment" (the default), "gaussian", "proximal", "pseudoinverse" or "gradient"; or one of
        `fastdiff.posterior` with options of its own; or a function step -> D' [B, ...] of a step with x, t, alpha,
        sigma, denoised (D) and vjp(v) (J^T v, J = dD/dx), with or without an observation. docs/posterior.md says which.
    particles: K > 1 makes groups of K neighbours in the batch one weighted ensemble, by reweighting and resampling
        (TDS, Wu et al. 2023): exact as K grows. The plan must draw noise. The result is then (x0, `Particles`).
    shard: noise is this process's part of samples that a group of processes draws together, a `fastdiff.Sharded`; so
        is what the model is given and returns. The parts are those of the samples that one process draws.
    callback: called with every `Step`. If it returns False the run ends there, and the x so far is returned.
    progress: show a tqdm bar. return_trajectory: also return the start and the accepted states, [K, B, ...].
    graph: capture model and steps as one CUDA graph and replay it, now and in later calls with the same module, shapes
        and number of rows (`fastdiff.capture`). The result is the same bit for bit. "auto" falls back to eager if the
        model cannot be captured or the noise is not on a CUDA device. Not with callback, progress, return_trajectory or
        mask.
    parallel: make the evaluations of a turn (`Plan.turns`) in one call of the model, on as many times B samples: less
        latency where a small batch leaves a device idle. For plans of `fastdiff.fit(..., parallel=2)`; a turn of other
        plans is a row. The samples are those of the same plan without it. Tensors among the keyword arguments whose
        first dimension is B are repeated. The model has to read each sample's own t. Not with graph, callback,
        progress, return_trajectory, mask, clamp, threshold or one of `fastdiff.guidance`.
    No gradients are recorded. Raises TypeError or ValueError naming the argument.

    >>> plan = fd.plan("unipc", fd.Schedule.flow(), steps=8)
    >>> velocity = lambda x, t: (2 * t - 1).view(-1, 1) * x / ((1 - t) ** 2 + t**2).view(-1, 1)  # of unit Gaussian data
    >>> sample(velocity, plan, torch.randn(16, 3)).shape
    torch.Size([16, 3])
    """
    request = Request(
        guidance, uncond, guidance_mode, seeds, image, mask, clamp, threshold, threshold_limit, model_dtype,
        observation, correction, particles, guidance_group, shard, kwargs,
    )  # fmt: skip
    watched = callback is not None or progress or return_trajectory or mask is not None
    if parallel:
        require_turns(
            model, plan, graph=graph, callback=callback, progress=progress, return_trajectory=return_trajectory,
            mask=mask, clamp=clamp, threshold=threshold, observation=observation, correction=correction,
            particles=particles > 1, guidance_group=guidance_group, shard=shard,
        )  # fmt: skip
        return _in_turns(model, plan, noise, request).to(noise.dtype)
    if graph:
        drawn = _from_graph(model, plan, noise, graph, watched, request)
        if drawn is not None:
            return drawn
    run, calls = request.begin(model, plan, noise, watched)
    if not watched:
        x = run.drive(calls.evaluator(run))
        x = x if x.dtype == noise.dtype else x.to(noise.dtype)
        return (x, calls.latest.particles()) if isinstance(calls, ParticleCalls) else x
    steps = run_steps(run, calls, noise, request)
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=plan.nfe, desc=plan.solver, unit="step")
    trajectory = [run.x.clone()] if return_trajectory else []
    for step in steps:
        if return_trajectory and step.accepted:
            trajectory.append(step.x.clone())
        if callback is not None and callback(step) is False:
            break
    result: list[Any] = [run.x.to(noise.dtype)]
    if isinstance(calls, ParticleCalls):
        result.append(calls.latest.particles())
    if return_trajectory:
        result.append(torch.stack(trajectory).to(noise.dtype))
    return tuple(result) if len(result) > 1 else result[0]


def _in_turns(model: Model, plan: Plan, noise: Tensor, request: Request) -> Tensor:
    """The last x [B, ...] of a run whose turns make a call each."""
    check_sample(plan, noise, request.image, None, None, None, 1.0, request.model_dtype)
    check_keywords(model, request.kwargs, OPTIONS)
    calls = TurnCalls(model, plan, noise.shape, request.guidance, request.uncond, request.guidance_mode, request.kwargs)
    run = Run(
        plan,
        start_state(plan, noise, request.image),
        model_dtype=request.model_dtype or noise.dtype,
        guidance=calls.guidance,
        seeds=sample_seeds(plan, noise, request.seeds),
    )
    return drive_in_turns(run, calls)


def run_steps(run: Run, calls: Calls, noise: Tensor, request: Request) -> Iterator[Step]:
    """A `Step` after every row, with the masked part of x replaced."""
    before = run.x
    for i in run.steps(calls.evaluator(run), run.times()):
        yield step_after(run, calls, i, before, noise, request)
        before = run.x


def step_after(run: Run, calls: Calls, i: int, before: Tensor, noise: Tensor, request: Request) -> Step:
    """The `Step` of row i, which has just been run, with the masked part of x replaced. before: x before the row."""
    row, image, mask = run.plan.rows[i], request.image, request.mask
    if mask is not None and image is not None and row.accepts:
        _keep_known(run, i, noise, image, mask)
    return Step(
        i, run.plan.nfe, row.t, row.alpha, row.sigma, run.x, row.accepts, calls.evaluations, run, before, calls
    )  # fmt: skip


def _from_graph(
    model: Model, plan: Plan, noise: Tensor, graph: bool | str, watched: bool, request: Request
) -> Tensor | None:
    """The samples, or None where graph="auto" falls back to eager."""
    if graph not in (True, "auto"):
        raise ValueError(f"graph: expected False, True or 'auto', got {graph!r}")
    if watched:
        raise ValueError("graph: a captured run has no callback, progress bar, trajectory or mask")
    if request.particles != 1:
        raise ValueError("graph: particles choose among themselves during the run; a captured run cannot")
    if request.guidance_mode == "ranks" or request.shard is not None:
        raise ValueError(
            "graph: processes exchange tensors during the run (guidance_mode='ranks', shard); no graph does"
        )
    checks.require_tensor("noise", noise)
    if not noise.is_cuda:
        if graph == "auto":
            return None
        raise ValueError(f"graph: expected noise on a CUDA device, got {noise.device}; graph='auto' does without")
    from .graph import CaptureError
    from .graph.cache import CAPTURED, sample_captured

    options = {name: getattr(request, name) for name in CAPTURED} | request.kwargs
    try:
        return sample_captured(model, plan, noise, request.seeds, request.image, options)
    except CaptureError:
        if graph == "auto":
            return None
        raise


@torch.no_grad()
def _keep_known(run: Run, i: int, noise: Tensor, image: Tensor, mask: Tensor) -> None:
    """Put the image, noised as x and base are, where the mask is 0."""
    row = run.plan.rows[i]
    keep_known(run.x, run.plan.point_after(i), noise, image, mask)
    if run.base is not run.x:
        keep_known(run.base, (row.alpha, row.sigma), noise, image, mask)
    run.refresh_input()

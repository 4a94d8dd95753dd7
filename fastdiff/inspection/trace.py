"""trace: a run, and everything that can be asked about its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..keywords import check_keywords, options_of
from ..plans.plan import Plan
from ..plans.schedule import Schedule
from ..plans.schedule_argument import require_schedule
from ..sampling.correction import Correction, Observed
from ..sampling.model import Model
from ..sampling.particles import ParticleCalls
from ..sampling.request import Request
from ..sampling.rule import Guidance
from ..sampling.sample import run_steps
from .fine_steps import FineSteps
from .guidance_terms import output_names
from .recorder import Recorder
from .step_errors import StepErrors
from .traced import Trace

REFERENCES = ("estimate", "measured")
WHOLE = 2**16  # elements in all, up to which every sample's tensors are kept
FEW = 8  # samples that are kept of larger ones


@torch.no_grad()
def trace(
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
    reference: str = "estimate",
    schedule: Schedule | None = None,
    substeps: int = 4,
    keep: int | None = None,
    **kwargs: object,
) -> Trace:
    """Draw samples and note what happens at every step: a `Trace`, with `result` bit for bit what `sample` returns.

    reference: what a step is compared with for its error. "estimate": the next higher order, from outputs that the run
        makes anyway; see `Trace.error`. "measured": the exact solution from where the step began, by `substeps` steps
        of the fifth order, six model evaluations each; for plans that draw no noise, without mask.
    schedule: the one that the plan was made for, whose times the fine steps need; for "measured" alone.
    keep: of how many samples, the first, states and predictions are kept. If None, all where they are few or small, 8
        otherwise. Numbers are noted of every sample.
    particles: as for `sample`; `result` is then its x0 alone. Such samples change places, so what compares one with
        itself before is not known where it has moved, and errors are not known.
    Other arguments, and errors: as for `fastdiff.sample`. Its options that say how a run is made and not what it
    draws (callback, progress, return_trajectory, graph, parallel) are not here, nor is shard. In a measured error, a
    guidance that remembers earlier outputs begins anew with every step.

    >>> plan = fd.plan("ddim", fd.Schedule.flow(), steps=3, grid="time")
    >>> still = lambda x, t: torch.zeros_like(x)  # a velocity of 0 leaves the noise where it is
    >>> trace(still, plan, torch.ones(2, 4)).table()["x"]
    array([1., 1., 1., 1.])
    """
    check_keywords(model, kwargs, options_of(trace))
    _check(plan, reference, schedule, substeps, keep, mask)
    request = Request(
        guidance, uncond, guidance_mode, seeds, image, mask, clamp, threshold, threshold_limit, model_dtype,
        observation, correction, particles, guidance_group, None, kwargs,
    )  # fmt: skip
    run, calls = request.begin(model, plan, noise, watched=True)
    names = output_names(calls)
    exact = None if schedule is None else FineSteps(model, request, plan, schedule, substeps).exact
    exchanging = isinstance(calls, ParticleCalls)
    recorder = Recorder(
        run.plan, run.x, len(names), _kept(noise, plan.nfe, keep),
        StepErrors(run.plan, len(noise), exact, exchanging), exchanging,
    )  # fmt: skip
    calls.see = recorder.see
    before = run.x
    for step in run_steps(run, calls, noise, request):
        recorder.row(step, before, run.base)
        before = run.x
    recorder.end(run.x)
    return Trace(run.plan, names, reference, run.x.to(noise.dtype), **recorder.stacked())


def _kept(noise: Tensor, rows: int, keep: int | None) -> int:
    """How many samples' tensors are kept."""
    few = FEW if noise.numel() * (3 * rows + 1) > WHOLE * FEW else len(noise)
    return min(few if keep is None else keep, len(noise))


def _check(
    plan: Plan, reference: str, schedule: Schedule | None, substeps: int, keep: int | None, mask: Tensor | None
) -> None:
    """Raises TypeError or ValueError naming what `trace` has beyond `sample`'s arguments."""
    if reference not in REFERENCES:
        raise ValueError(f"reference: expected 'estimate' or 'measured', got {reference!r}")
    if keep is not None and not keep >= 0:
        raise ValueError(f"keep: expected a number of samples >= 0, got {keep!r}")
    if reference == "estimate":
        if schedule is not None:
            raise ValueError("schedule: it is read for reference='measured' alone")
        return
    if schedule is None:
        raise ValueError("schedule: reference='measured' needs the schedule that the plan was made for, got None")
    require_schedule(schedule)
    if not isinstance(plan, Plan):
        return  # which `sample`'s check says better
    plan.check_schedule(schedule)
    if plan.stochastic:
        raise ValueError(f"reference: 'measured' is for plans that draw no noise, {plan.solver} does; use 'estimate'")
    if mask is not None:
        raise ValueError("reference: 'measured' is for runs without mask; use 'estimate'")
    if not substeps >= 1:
        raise ValueError(f"substeps: expected a whole number >= 1, got {substeps!r}")

"""sample_in_time: a plan's run by rounds over many rows at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...keywords import check_keywords, options_of
from ...plans.plan import Plan
from ..model import Model
from ..rule import Guidance
from ..start import OPTIONS, check_sample, sample_seeds, start_state
from .anderson import MAX_HISTORY, Anderson
from .calls import TimeCalls
from .evaluated import Evaluated
from .held import held_of
from .parareal import Parareal, segments_of
from .picard import Picard
from .report import InTime
from .rows import Rows
from .times import require_own_times

METHODS = ("picard", "anderson", "parareal")


@torch.no_grad()
def sample_in_time(
    model: Model,
    plan: Plan,
    noise: Tensor,
    *,
    method: str = "anderson",
    tolerance: float = 0.01,
    window: int = 16,
    history: int = 2,
    segments: int | None = None,
    spread: float = 1.0,
    max_rounds: int | None = None,
    batch: int | None = None,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | None = None,
    guidance_mode: str = "batch",
    seeds: Sequence[int] | Tensor | None = None,
    image: Tensor | None = None,
    clamp: float | None = None,
    threshold: float | None = None,
    threshold_limit: float = 1.0,
    model_dtype: torch.dtype | None = None,
    **kwargs: object,
) -> tuple[Tensor, InTime]:
    """Draw the samples of `fastdiff.sample` in fewer calls of the model, each on many more samples.

    Every row's state is guessed; a round evaluates many rows at once and makes their states anew, until they stay. With
    tolerance 0 the samples are those of `fastdiff.sample`, bit for bit where the model gives a sample the same bits in
    any batch. It pays where calls are bound by latency, and for plans of many rows. Returns (x0 [B, ...], `InTime`).

    method: "picard" (ParaDiGMS, Shih et al. 2023), "anderson" (with the triangular acceleration of ParaTAA, Tang et al.
        2024) or "parareal" (SRDS, Selvam et al. 2024).
    tolerance: the root mean square change of a state in a round, over its noise level sigma, below which it is done.
    window: rows of a round, for each sample from its first one that is not done. More take a few rounds less, and more
        evaluations and memory: about four states a row, ten with "anderson".
    history: rounds before the last that "anderson" mixes, 1 to 3. segments: of "parareal", sqrt(rows) if None.
    spread: the standard deviation s of the data, roughly. While a state moves, its evaluation is moved along by the
        slope that the model would have on data N(0, s^2); infinity holds the noise, as the papers do, and takes more
        rounds.
    max_rounds: after so many the run ends as it is; None for as many as it takes, at most one a row.
    batch: the most samples of a call, guidance's copies included; None for no bound.
    The others are those of `fastdiff.sample`. Tensors among the keyword arguments whose first dimension is B are told
    sample by sample. The model has to read each sample's own t, which the first call finds out. Not with callbacks,
    trajectories, masks, graphs, observations, particles or one of `fastdiff.guidance`, and not for plans with cheap
    calls. Raises TypeError or ValueError naming the argument.

    >>> plan = fd.plan("ddim", fd.Schedule.flow(), steps=50)
    >>> velocity = lambda x, t: (2 * t - 1).view(-1, 1) * x / ((1 - t) ** 2 + t**2).view(-1, 1)  # of unit Gaussian data
    >>> x0, took = sample_in_time(velocity, plan, torch.randn(16, 3))
    >>> took.rounds < 10
    True
    """
    check_sample(plan, noise, image, None, clamp, threshold, threshold_limit, model_dtype)
    check_keywords(model, kwargs, tuple(dict.fromkeys((*options_of(sample_in_time), *OPTIONS))))
    if isinstance(guidance, Guidance):
        raise ValueError(f"guidance: expected a number or a tensor [B] here, got {guidance!r}")
    plan.refuse_cheap_calls("which no run parallel in time makes")
    plan.refuse_reuse("and a run parallel in time makes it at every row")
    _check_numbers(method, tolerance, window, history, segments, spread, max_rounds, batch)
    x = start_state(plan, noise, image)
    calls = TimeCalls(
        model, plan, tuple(noise.shape), guidance, uncond, guidance_mode, kwargs, model_dtype or noise.dtype, batch
    )  # fmt: skip
    bound = None if threshold is None else (threshold, threshold_limit)
    rows = Rows(plan, x, guidance if calls.guided else None, sample_seeds(plan, noise, seeds), clamp, bound)
    require_own_times(model, plan, calls, x)
    held, scales = held_of(plan, spread), _scales(plan)
    run: Picard | Parareal
    if method == "parareal":
        starts = segments_of(plan, segments or max(1, round(math.sqrt(plan.nfe))))
        run = Parareal(plan, rows, calls, held, scales, x, starts, tolerance)
    else:
        mixing = Anderson(history, scales) if method == "anderson" else None
        run = Picard(rows, Evaluated(calls, held, x), scales, x, window, tolerance, mixing)
    while not run.done and (max_rounds is None or len(run.residuals) < max_rounds):
        run.round()
    took = InTime(
        len(run.residuals), calls.calls, calls.evaluations, calls.largest, tuple(run.residuals), run.done
    )  # fmt: skip
    return run.result().to(noise.dtype), took


def _scales(plan: Plan) -> list[float]:
    """The noise level of each row's state, the least that there is where a state has none."""
    least = min((row.sigma for row in plan.rows if row.sigma), default=1.0)
    return [row.sigma or least for row in plan.rows]


def _check_numbers(
    method: str,
    tolerance: float,
    window: int,
    history: int,
    segments: int | None,
    spread: float,
    max_rounds: int | None,
    batch: int | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    for name, value in (("tolerance", tolerance), ("spread", spread)):
        if not value >= 0:
            raise ValueError(f"{name}: expected a number >= 0, got {value}")
    counts = {"window": window, "history": history, "segments": segments, "max_rounds": max_rounds, "batch": batch}
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"{name}: expected a whole number >= 1, got {count!r}")
    if history > MAX_HISTORY:
        raise ValueError(f"history: expected at most {MAX_HISTORY}, got {history}")

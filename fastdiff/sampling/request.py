"""What a call of `fastdiff.sample` asks for, and the run and model calls that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, dtype

from ..keywords import check_keywords
from ..plans.plan import Plan
from .corrected import CorrectedCalls
from .correcting import corrected_calls
from .correction import Correction, Observed, is_corrected
from .guided import GuidedCalls, calls_of
from .model import Model, ModelCalls
from .over_ranks import OverRanks, check_gradients, check_sharded, refuse_with_shard
from .partial import Here, RowCalls
from .program import program_of
from .rule import Guidance
from .run import Run
from .sharded import Sharded
from .start import OPTIONS, check_sample, sample_seeds, start_state

Calls = ModelCalls | GuidedCalls | CorrectedCalls


class Request(NamedTuple):
    """The arguments of `fastdiff.sample` that say what is drawn, not how it is watched. kwargs: the model's own."""

    guidance: float | Tensor | Guidance | None
    uncond: Mapping[str, object] | None
    guidance_mode: str
    seeds: Sequence[int] | Tensor | None
    image: Tensor | None
    mask: Tensor | None
    clamp: float | None
    threshold: float | None
    threshold_limit: float
    model_dtype: dtype | None
    observation: Observed | None
    correction: str | Correction | Callable | None
    particles: int
    guidance_group: object
    shard: Sharded | None
    kwargs: dict[str, object]

    def begin(self, model: Model, plan: Plan, noise: Tensor, watched: bool) -> tuple[Run, Calls]:
        """Check every argument; return the run before its first row and the calls that it makes."""
        check_sample(
            plan, noise, self.image, self.mask, self.clamp, self.threshold, self.threshold_limit, self.model_dtype
        )
        if self.particles != 1:
            self._check_alone()
        if self.shard is not None:
            self.shard.check(noise)
            particles = None if self.particles == 1 else self.particles
            refuse_with_shard(observation=self.observation, correction=self.correction, particles=particles)
        if self.kwargs:
            check_keywords(model, self.kwargs, OPTIONS)
        rows = RowCalls(model) if program_of(plan).partial else None
        uncorrected = calls_of(
            rows or model, plan, noise.shape, self.guidance, self.uncond, self.guidance_mode, self.kwargs,
            self.guidance_group,
        )  # fmt: skip
        if self.shard is not None:
            check_sharded(self.shard, uncorrected, noise.shape)
        calls: Calls = uncorrected
        x = start_state(plan, noise, self.image)
        if is_corrected(self.observation, self.correction) or self.particles != 1:
            calls = corrected_calls(
                uncorrected, plan, x, self.observation, self.correction, self.particles, rows is not None
            )
            check_gradients(uncorrected.apart, calls)
        shared = OverRanks(uncorrected.apart, self.shard)
        seeds = sample_seeds(plan, noise, self.seeds, shared.groups)
        shared.require_same(x, seeds, self.guidance, plan)
        run = Run(
            calls.run_plan if isinstance(calls, CorrectedCalls) else plan,
            x,
            model_dtype=self.model_dtype or noise.dtype,
            copies=calls.copies,
            guidance=calls.guidance,
            seeds=seeds,
            clamp=self.clamp,
            threshold=None if self.threshold is None else (self.threshold, self.threshold_limit),
            watched=watched,
            cheap_calls=rows is not None,
            shard=self.shard,
        )
        if rows is not None:
            rows.here = lambda: Here(run.i, plan.rows[run.i].call, plan.rows[run.i].log_snr)
        return run, calls

    def _check_alone(self) -> None:
        """Raises ValueError naming what changes samples behind the back of particles' weights."""
        for name in ("mask", "clamp", "threshold"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: not with particles, whose weights would not know of it")

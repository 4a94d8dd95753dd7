"""Runs in which rows of one turn (`fastdiff.plans.turns`) share a call of the model: latency for memory.

It is for devices that a small batch leaves idle. The states of a turn's rows are made first, with x in the place of
outputs that have no weight there; after the call the rows run again, with their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..plans.plan import Plan
from .model import Model, ModelCalls, check_guidance, is_guided, joined
from .rule import Guidance
from .run import Run


def require_turns(model: Model, plan: Plan, **options: object) -> None:
    """Raises ValueError naming what cannot run in turns. options: those of `sample` that cannot where given."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise ValueError(f"{name}: not with parallel=True")
    plan.refuse_cheap_calls("which no parallel run makes")
    plan.refuse_reuse("and a parallel run makes it at every row")
    if getattr(model, "one_time", False) and len(plan.turns) < plan.nfe:
        raise ValueError("parallel: the model reads one time for all samples of a call, those of a turn have several")


class TurnCalls:
    """The model's calls of a run in turns. Arguments and errors are those of `fastdiff.sample`; shape: x's, [B, ...].

    guidance: the scale, or None where it is not used.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        shape: Sequence[int],
        guidance: float | Tensor | Guidance | None,
        uncond: Mapping[str, object] | None,
        guidance_mode: str,
        kwargs: Mapping[str, object],
    ) -> None:
        if isinstance(guidance, Guidance):
            raise ValueError(f"guidance: expected a number or a tensor [B] with parallel=True, got {guidance!r}")
        batch = shape[0]
        check_guidance(guidance, uncond, guidance_mode, batch)
        self.guidance = guidance if is_guided(guidance) else None
        self._calls = {}
        for count in {len(turn) for turn in plan.turns}:
            scale = guidance.repeat(count) if isinstance(guidance, Tensor) else guidance
            other = None if uncond is None else joined([uncond] * count, batch)
            several = (count * batch, *shape[1:])
            calls = ModelCalls(model, several, scale, other, guidance_mode, joined([kwargs] * count, batch))
            self._calls[count] = calls

    def outputs(self, given: list[Tensor], times: list[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(m, m_uncond) of each of the model inputs [B, ...] at its times [B], all in one evaluation."""
        calls = self._calls[len(given)]
        m, m_uncond = calls.evaluator()(torch.cat(given * calls.copies), torch.cat(times * calls.copies))
        none = (None,) * len(given)
        return zip(m.chunk(len(given)), none if m_uncond is None else m_uncond.chunk(len(given)), strict=True)


def drive_in_turns(run: Run, calls: TurnCalls) -> Tensor:
    """Do all rows of a watched run, and return the last x [B, ...]."""
    times = list(run.times())
    for turn in run.plan.turns:
        given = [run.model_input.clone()]
        for i in turn[:-1]:
            run.apply(i, run.x)
            given.append(run.model_input.clone())
        for i, outputs in zip(turn, calls.outputs(given, [times[i] for i in turn]), strict=True):
            run.apply(i, *outputs)
    return run.x

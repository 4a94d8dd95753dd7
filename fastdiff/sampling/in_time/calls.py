"""Evaluations of several rows for some of the samples, in as few calls of the model as its largest batch allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...plans.plan import Plan
from ..model import Model, ModelCalls, check_mode, is_guided
from .rows import Outputs


class Asked(NamedTuple):
    """An evaluation: row i for the samples at `places` in the batch [k], at x [k, ...]."""

    i: int
    places: np.ndarray
    x: Tensor


class TimeCalls:
    """The model calls of a run whose samples stand at several times; arguments are those of `fastdiff.sample`.

    shape: x's, [B, ...]. batch: the most samples of a call, None for all at once.
    calls, evaluations, largest: what there was so far, see `InTime`.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        shape: Sequence[int],
        guidance: float | Tensor | None,
        uncond: Mapping[str, object] | None,
        guidance_mode: str,
        kwargs: Mapping[str, object],
        model_dtype: torch.dtype,
        batch: int | None,
    ) -> None:
        check_mode(guidance_mode)
        self._model, self._shape, self._mode, self._dtype, self._batch = model, shape, guidance_mode, model_dtype, batch
        self._times = [row.t for row in plan.rows]
        self._scales = [row.c_in for row in plan.rows]
        self._guidance, self._uncond, self._kwargs = guidance, uncond, kwargs
        self.guided = is_guided(guidance)
        if batch == 1 and self.guided and guidance_mode == "batch":
            raise ValueError("batch: guidance in one call needs 2 samples at least, got 1; use guidance_mode='calls'")
        self.calls = self.evaluations = self.largest = 0
        ModelCalls(model, shape, guidance, uncond, guidance_mode, dict(kwargs))  # its checks

    def outputs(self, asked: Sequence[Asked]) -> list[Outputs]:
        """The outputs [k, ...] of each."""
        given = torch.cat([self._given(each) for each in asked])
        times = torch.cat([each.x.new_full((len(each.x),), self._times[each.i]) for each in asked])
        samples = on(np.concatenate([each.places for each in asked]), given)
        copies = 2 if self.guided and self._mode == "batch" else 1
        size = max(1, len(given)) if self._batch is None else self._batch // copies
        parts = zip(given.split(size), times.split(size), samples.split(size), strict=True)
        found = [self._call(*part) for part in parts]
        sizes = [len(each.x) for each in asked]
        m = torch.cat([m for m, _ in found]).split(sizes)
        uncond = [u for _, u in found if u is not None]
        others = torch.cat(uncond).split(sizes) if uncond else [None] * len(sizes)
        return [Outputs(*pair) for pair in zip(m, others, strict=True)]

    def combined(self, outputs: Outputs, places: np.ndarray) -> Tensor:
        """m_u + g (m - m_u) of the samples at these places, or m without guidance."""
        (m, m_uncond), scale = outputs, self._guidance
        if m_uncond is None or scale is None:
            return m
        if isinstance(scale, Tensor):
            scale = scale.to(m)[on(places, m)].view(-1, *[1] * (m.ndim - 1))
        return m_uncond + scale * (m - m_uncond)

    def _given(self, asked: Asked) -> Tensor:
        scale = self._scales[asked.i]
        return (asked.x if scale == 1 else asked.x * scale).to(self._dtype)

    def _call(self, given: Tensor, times: Tensor, samples: Tensor) -> Outputs:
        calls = self._of(samples)
        self.calls += len(calls.arguments)
        self.evaluations += calls.evaluations * len(given)
        self.largest = max(self.largest, calls.copies * len(given))
        m, m_uncond = calls.evaluator()(torch.cat([given] * calls.copies), torch.cat([times] * calls.copies))
        return Outputs(m, m_uncond)

    def _of(self, samples: Tensor) -> ModelCalls:
        """The calls for these samples [P], with what each is told."""
        count, guidance = self._shape[0], self._guidance
        told, other = (
            {name: _picked(value, samples, count) for name, value in given.items()}
            for given in (self._kwargs, self._uncond or {})
        )
        scale = guidance[samples.to(guidance.device)] if isinstance(guidance, Tensor) else guidance
        return ModelCalls(self._model, (len(samples), *self._shape[1:]), scale, other, self._mode, told)


def on(values: np.ndarray, like: Tensor) -> Tensor:
    """An array on a tensor's device; the host does not wait."""
    return torch.from_numpy(values).to(like.device, non_blocking=True)


def _picked(value: object, samples: Tensor, count: int) -> object:
    """What the samples are told: of a tensor with the batch first their rows, of anything else all."""
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return value[samples.to(value.device)]
    return value

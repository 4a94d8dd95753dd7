"""What the model is given in one step of a `StepBatch`: the evaluations that are needed, or all there could be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..model import checked_output
from .pool import IDLE, Pool


class Inputs:
    """Gathers the model's input from a pool, and brings its output back.

    The evaluations without condition come first. static: all of them are made in every step, in tensors that stay where
    they are; otherwise those of slots that run, the unconditional ones where guidance asks.
    conditions, uncond: for each keyword what a sample is told that says nothing of its own, without the batch.
    """

    def __init__(
        self, pool: Pool, conditions: Mapping[str, Tensor], uncond: Mapping[str, Tensor] | None, static: bool
    ) -> None:
        self._pool, self._static, self._batch = pool, static, pool.shape[0]
        sides = (conditions,) if uncond is None else (uncond, conditions)
        self._told = {k: torch.cat([side[k].expand(self._batch, *side[k].shape) for side in sides]) for k in conditions}
        self._sides = len(sides)
        self._t = pool.send().repeat(self._sides)
        self._slots: tuple[list[int], list[int]] | None = None  # of the unconditional evaluations, and of the others
        self._counts = 0, 0
        self._index: Tensor | None = None  # of both in the pool
        self._given: dict[str, Tensor] = self._told
        self._spread: dict[str, Tensor] = {}

    def tell(self, index: Tensor, conditions: Mapping[str, Tensor], uncond: Mapping[str, Tensor]) -> None:
        """Set what some slots are told: tensors [n, ...] of the slots index [n]."""
        for name, value in self._told.items():
            value[-self._batch :].index_copy_(0, index, conditions[name])
            if self._sides > 1:
                value[: self._batch].index_copy_(0, index, uncond[name])
        self._slots = None

    def slots(self) -> tuple[list[int], list[int]]:
        """The slots of the unconditional evaluations of this step, and those of the others."""
        if self._static:
            everyone = list(range(self._batch))
            return everyone * (self._sides - 1), everyone
        runs = self._pool.row != IDLE
        guided = runs & ~np.isnan(self._pool.scale)
        return np.flatnonzero(guided).tolist(), np.flatnonzero(runs).tolist()

    def take(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(x, t, conditions) of this step's evaluations."""
        t = self._pool.send()
        if self._static:
            self._t.copy_(t.repeat(self._sides))
            return self._pool.model_input, self._t, self._told
        slots = self.slots()
        if slots != self._slots:
            self._slots = slots
            self._regather(*slots)
        return self._pick(self._pool.model_input), self._pick(t), self._given

    def outputs(self, m: Tensor) -> tuple[Tensor, Tensor | None]:
        """(m, m_uncond) [B, ...], anything in slots that made no evaluation; None where nobody made one."""
        without, having = (self._batch * (self._sides - 1), self._batch) if self._static else self._counts
        m = checked_output(m, (without + having, *self._pool.shape[1:]))
        return self._spread_out("m", m[without:]), self._spread_out("m_uncond", m[:without]) if without else None

    def _regather(self, without: list[int], having: list[int]) -> None:
        """Make the indices, and what the model is told, for other slots than in the step before."""
        slots, device = without + having, self._pool.model_input.device
        self._counts = len(without), len(having)
        everyone = not without and len(having) == self._batch
        self._index = None if everyone else torch.tensor(slots, dtype=torch.int64).to(device, non_blocking=True)
        sides = [*without, *(slot + (self._sides - 1) * self._batch for slot in having)]
        index = torch.tensor(sides, dtype=torch.int64).to(device, non_blocking=True)
        self._given = {name: value.index_select(0, index) for name, value in self._told.items()}

    def _pick(self, value: Tensor) -> Tensor:
        return value if self._index is None else value.index_select(0, self._index)

    def _spread_out(self, name: str, m: Tensor) -> Tensor:
        """[B, ...] with the outputs of some slots where these are; they are in the order of the slots."""
        if len(m) == self._batch:
            return m
        assert self._index is not None
        whole = self._spread.get(name)
        if whole is None or whole.dtype != m.dtype:
            whole = self._spread[name] = m.new_zeros(self._pool.shape)
        without = self._counts[0]
        return whole.index_copy_(0, self._index[:without] if name == "m_uncond" else self._index[without:], m)

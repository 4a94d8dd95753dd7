"""What a `Rule` becomes at one evaluation: operands and weights for the step, and what is kept for the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..ops import registry
from ..ops.reference import compute_dtype
from ..plans.table import empty_table
from .rule import COLUMNS, Array, Guidance, Rule
from .sharded import Sharded

CONDITIONAL, UNCONDITIONAL = 0, 1

# The row x' = D = m: with weights it makes y.
COMBINING = empty_table(1)
COMBINING["p_m"] = 1.0
COMBINING["A"][0, 0] = 1.0


class Weighted(NamedTuple):
    """What a row reads besides m and u: m_2 and m_3, the state, the weights of all; and where the next state goes."""

    others: Sequence[Tensor | None]
    state: Tensor | None
    weights: Tensor
    next_state: Tensor | None

    @property
    def pushes(self) -> bool:
        """Whether the history gets another output than the step."""
        return self.weights.shape[1] == 2


class Memory:
    """What a guidance keeps from evaluation to evaluation of one run, on samples like x [B, ...], and its buffers.

    shard: what part of the samples x is. stopped: whether a rule has ended the guidance. No evaluation allocates memory
    on the CPU but for outputs it keeps.
    """

    def __init__(self, guidance: Guidance, x: Tensor, shard: Sharded | None = None) -> None:
        self._shard = shard
        self._batch, self._device = len(x), x.device
        self._gram = registry.choose("gram", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
        self._states: tuple[Tensor | None, Tensor | None] = (None, None)
        self._dtype = compute_dtype(x.dtype)
        if guidance.stateful:
            self._states = torch.zeros_like(x, dtype=self._dtype), torch.empty_like(x, dtype=self._dtype)
        self._keeps, self._differs = guidance.keeps_uncond, guidance.keeps_difference
        self._past: list[Tensor] = []  # outputs u, or u - c, newest first
        self._buffers: dict[tuple[int, int], tuple[Tensor, Array]] = {}
        self.stopped = False

    def slots(self, rule: Rule, outputs: Mapping[int, Tensor]) -> list[Tensor | None]:
        """[m, u, m_2, m_3] from the calls' outputs and earlier ones. It keeps u where rules read earlier ones."""
        slots = [None if call is None else outputs[call] for call in rule.calls]
        slots += self._past[: rule.past]
        if self._keeps and UNCONDITIONAL in outputs:
            u = outputs[UNCONDITIONAL].detach()
            # In the compute dtype: a difference of halves may be out of their range.
            kept = u.to(self._dtype) - outputs[CONDITIONAL].detach().to(self._dtype) if self._differs else u.clone()
            self._past = [kept, *self._past[: self._keeps - 1]]
        return slots + [None] * (4 - len(slots))

    def weighted(self, rule: Rule, slots: Sequence[Tensor | None], x: Tensor, known: Tensor | None) -> Weighted:
        """The operands and weights of a rule that is not plain. known: its weights, where they are.

        The state moves on, so it is called once an evaluation.
        """
        state, spare = self._states
        weights = self._by_formula(rule, (*slots, x, state)) if known is None else known
        if spare is None or weights.shape[1] < 3:
            return Weighted(slots[2:], state, weights, None)
        self._states = spare, state
        return Weighted(slots[2:], state, weights, spare)

    def constant(self, weights: np.ndarray) -> Tensor:
        """[B, S, 6] on the device for numbers [S, 6] or [B, S, 6]."""
        full = np.broadcast_to(weights, (self._batch, *weights.shape[-2:]))
        return torch.from_numpy(full.astype(np.float64)).to(self._device, non_blocking=True)

    def _by_formula(self, rule: Rule, operands: Sequence[Tensor | None]) -> Tensor:
        assert rule.basis is not None
        assert rule.formula is not None
        size = len(rule.basis) + 1
        out, gram = self._buffer(size, size)
        if torch.is_grad_enabled():  # weights count as constants under an observation
            operands = [None if v is None else v.detach() for v in operands]
        self._gram(rule.basis_tensor, operands, out)
        if self._shard is not None:
            out.copy_(self._shard.sum(out))  # gram may be an array of its memory
        self.stopped = rule.stop is not None and rule.stop(gram)
        made = rule.formula(gram)
        if isinstance(made, Tensor):
            return made
        weights, numbers = self._buffer(made.shape[-2], len(COLUMNS))
        numbers[...] = made
        return weights

    def _buffer(self, rows: int, columns: int) -> tuple[Tensor, Array]:
        """A float64 tensor [B, rows, columns], and what formulas see of it: an array of its memory on the CPU."""
        found = self._buffers.get((rows, columns))
        if found is None:
            out = torch.empty(self._batch, rows, columns, dtype=torch.float64, device=self._device)
            found = self._buffers[rows, columns] = out, out.numpy() if out.device.type == "cpu" else out
        return found


def known_weights(rule: Rule) -> np.ndarray | None:
    """[S, 6] or [B, S, 6] where the rule's weights are known before the run and are more than one scale for all."""
    if isinstance(rule.scale, np.ndarray):
        weights = np.zeros((len(rule.scale), 1, len(COLUMNS)))
        weights[:, 0, 0], weights[:, 0, 1] = rule.scale, 1.0
        return weights
    return rule.weights

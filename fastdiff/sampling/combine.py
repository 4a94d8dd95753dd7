"""Guidance applied to outputs that are at hand: for callers with a loop of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..ops.reference import compute_dtype
from .rule import Guidance, Point, Rule


class Combiner:
    """The guided output of each evaluation of one run: `combiner(point, x, outputs)`.

    It keeps the run's state, so a run has a Combiner of its own.
    """

    def __init__(self, guidance: Guidance) -> None:
        self.guidance = guidance
        self._state: Tensor | None = None

    def rule(self, point: Point) -> Rule:
        """What is done at the point: `rule(point).calls` says which outputs are wanted."""
        return self.guidance.rule(point)

    @torch.no_grad()
    def __call__(self, point: Point, x: Tensor, outputs: Sequence[Tensor | None]) -> Tensor:
        """y [B, ...] in the first output's dtype.

        x: [B, ...] the point. outputs: by call: conditional, unconditional, the guidance's `extra`; None for those that
        the rule does not name.
        """
        rule = self.guidance.rule(point)
        operands = [None if call is None else outputs[call] for call in rule.calls]
        operands += [None] * (4 - len(operands))
        like = next((m for m in outputs if m is not None), x)
        if rule.combine is not None:
            return rule.combine(x, [m for m in operands if m is not None])
        if rule.scale is None and rule.weights is None and rule.formula is None:
            assert operands[0] is not None
            return operands[0]
        if self.guidance.stateful and self._state is None:
            self._state = torch.zeros_like(x, dtype=compute_dtype(x.dtype))
        tensors = [*operands, x, self._state]
        weights = _weights(rule, tensors, len(x))
        y = _combined(weights[:, 0], tensors, x)
        if weights.shape[1] == 3:
            self._state = _combined(weights[:, 2], tensors, x)
        return y.to(like.dtype)


def _weights(rule: Rule, tensors: Sequence[Tensor | None], batch: int) -> np.ndarray:
    """[B, S, 6]."""
    if rule.scale is not None:
        scale = np.broadcast_to(np.asarray(rule.scale, dtype=np.float64), (batch,))
        return np.stack([scale, np.ones(batch), *[np.zeros(batch)] * 4], axis=-1)[:, None]
    if rule.weights is not None:
        return np.broadcast_to(rule.weights, (batch, *rule.weights.shape[-2:]))
    assert rule.basis is not None
    assert rule.formula is not None
    vectors = [
        sum(w * t.double() for w, t in zip(row, tensors, strict=True) if w != 0 and t is not None) for row in rule.basis
    ]
    flat = torch.stack([v.flatten(1) for v in vectors], dim=1)
    flat = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
    return rule.formula((flat @ flat.mT).numpy())


def _combined(weights: np.ndarray, tensors: Sequence[Tensor | None], x: Tensor) -> Tensor:
    m, uncond, second, third, state = *tensors[:4], tensors[5]
    dtype = compute_dtype(x.dtype)
    w = torch.from_numpy(weights).to(x.device, dtype).view(len(x), 6, *[1] * (x.ndim - 1))
    total = torch.zeros_like(x, dtype=dtype)
    for column, tensor in ((0, m), (2, second), (3, third)):
        if tensor is not None:
            total = total + w[:, column] * (tensor.to(dtype) - (0 if uncond is None else uncond.to(dtype)))
    for column, tensor in ((1, uncond), (4, x), (5, state)):
        if tensor is not None:
            total = total + w[:, column] * tensor.to(dtype)
    return total

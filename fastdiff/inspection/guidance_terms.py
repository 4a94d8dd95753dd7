"""What guidance makes of the model's outputs, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..sampling.guided import GuidedCalls
from ..sampling.request import Calls
from ..sampling.rule import COLUMNS
from .measures import cosine, rms

OUTPUTS = ("c", "u", "c_2", "c_3", "c_4")
"""The outputs in the order of `Rule.calls`: the conditional one, the unconditional one, the guidance's others."""


class Terms(NamedTuple):
    """The numbers of one row for O outputs; NaN for an output of which no call was made.

    outputs: [B, O] their lengths |m|. differences: [B, O] the lengths |c - m|. cosines: [B, O] those between c and m.
    weights: [B, 6] in the order of `COLUMNS`, NaN where the guidance is no weighted sum.
    """

    outputs: Tensor
    differences: Tensor
    cosines: Tensor
    weights: Tensor


def output_names(calls: Calls) -> tuple[str, ...]:
    """The outputs that a run's guidance may ask for; none without guidance."""
    inner = getattr(calls, "calls", calls)
    if isinstance(inner, GuidedCalls):
        return OUTPUTS[: 2 + len(inner.of.extra)]
    return OUTPUTS[:2] if inner.guidance is not None else ()


def terms(outputs: Mapping[int, Tensor], weights: float | Tensor | None, count: int, batch: int) -> Terms:
    """The numbers of a row whose calls gave these outputs, for `count` outputs that there might be."""
    nothing = torch.full((batch,), math.nan, dtype=torch.float64)
    c = outputs.get(0)

    def each(measure: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([measure(outputs[k]).cpu() if k in outputs else nothing for k in range(count)], 1)

    def against(measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return each(lambda m: nothing if c is None or m is c else measure(c, m))

    lengths = against(lambda a, b: rms(a.double() - b.double()))
    return Terms(each(rms), lengths, against(cosine), _weights(weights, 1 in outputs, batch))


def _weights(weights: float | Tensor | None, unconditional: bool, batch: int) -> Tensor:
    """Plain guidance is g (c - u) + u, and c alone where there is no u."""
    if isinstance(weights, Tensor) and weights.ndim == 3:
        return weights[:, 0].double().cpu().clone()
    found = torch.zeros(batch, len(COLUMNS), dtype=torch.float64)
    if weights is None:
        return found.fill_(math.nan)
    found[:, 0] = torch.as_tensor(weights, dtype=torch.float64)
    found[:, 1] = float(unconditional)
    return found

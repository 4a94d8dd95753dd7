"""One row of a plan on the host's tensors."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from ...ops.reference import compute_dtype
from ...plans.plan import Plan
from ...plans.row import Row
from ...sampling.run import Run


@functools.lru_cache(maxsize=4096)
def _alone(row: Row) -> Plan:
    return Plan((row,), (1.0, 0.0), "sample")


def take(
    row: Row, m: Tensor, x: Tensor, noises: Sequence[Tensor] = (), clamp: float | None = None
) -> tuple[Tensor, Tensor]:
    """(x', x0) [B, ...] in x's dtype, of a row in data form, from the output m and x [B, ...].

    noises: those that the row draws, in the order of their indices. clamp: the bound on |x0|.
    """
    dtype = compute_dtype(x.dtype)
    state = x.to(dtype)
    run = Run(_alone(row), state, model_dtype=dtype, given_noise=True, clamp=clamp)
    run.apply(0, m.to(dtype), noises=[noise.to(dtype) for noise in noises])
    return run.x.to(x.dtype), run.data_prediction(0, state).to(x.dtype)

"""Counter-based noise: one stream per sample, the same numbers on every backend and in every batch."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import make_row, solver_step


def seed_tensor(seeds: Sequence[int] | Tensor, batch: int, device: torch.device | str | None = None) -> Tensor:
    """The seeds as int64 [B] on the device. Raises TypeError or ValueError naming `seeds`."""
    if isinstance(seeds, Tensor):
        if seeds.dtype.is_floating_point or seeds.dtype == torch.bool:
            raise TypeError(f"seeds: expected whole numbers, got {seeds.dtype}")
    elif not all(isinstance(seed, numbers.Integral) for seed in seeds):
        raise TypeError(f"seeds: expected whole numbers, got {seeds!r}")
    elif not all(-(2**63) <= seed < 2**63 for seed in seeds):
        raise ValueError(f"seeds: expected numbers of 64 bits with sign, got {seeds!r}")
    tensor = torch.as_tensor(seeds, dtype=torch.int64)
    if tensor.shape != (batch,):
        raise ValueError(f"seeds: expected one for each of the {batch} samples, got shape {tuple(tensor.shape)}")
    return tensor.to(device or tensor.device, non_blocking=True)  # the host does not wait for the copy


def randn(
    shape: Sequence[int],
    seeds: Sequence[int] | Tensor,
    *,
    index: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal noise [B, ...] whose sample b depends only on seeds[b] (Philox4x32-10 and Box-Muller).

    shape: [B, ...]. seeds: B whole numbers. index: which noise of the run, in [0, 2^32); 0 is the initial noise,
    solvers draw from 1 upwards. The numbers are the same on every device and backend, to the rounding of log and cos.
    Raises TypeError or ValueError naming the argument.

    >>> torch.equal(randn((2, 3), seeds=[5, 7])[1:], randn((1, 3), seeds=[7]))
    True
    """
    if not 0 <= index < 2**32:
        raise ValueError(f"index: expected a whole number in [0, 2^32), got {index}")
    out = torch.empty(tuple(shape), dtype=dtype, device=device)
    if out.ndim == 0:
        raise ValueError("shape: expected at least one dimension, the batch, got ()")
    row = make_row(xi_a=[1.0], noise=[index])
    return solver_step(out, out, row, seeds=seed_tensor(seeds, len(out), out.device)).x

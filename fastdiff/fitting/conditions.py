"""Conditions that come in batches, from a generator or a data loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def read_conditions(batches: Iterable[Mapping[str, Tensor]], count: int) -> dict[str, Tensor]:
    """The keyword arguments [count, ...] of the first samples, from dicts of tensors whose first dimension is a batch.

    Batches are read in order, and no more of them than `count` samples need. Raises TypeError or ValueError naming
    conditions: for what is no dict of tensors, for batches that do not agree, and for too few.
    """
    if isinstance(batches, (Mapping, Tensor)) or not isinstance(batches, Iterable):
        raise TypeError(f"conditions: expected an iterable of dicts, got {type(batches).__name__}")
    read: list[Mapping[str, Tensor]] = []
    known, more = 0, iter(batches)
    while known < count:
        batch = next(more, None)
        if batch is None:
            raise ValueError(f"conditions: {count} samples need as many, the batches end after {known}")
        known += _length(batch)
        if read:
            _require_alike(read[0], batch)
        read.append(batch)
    return {name: torch.cat([batch[name] for batch in read])[:count] for name in read[0]}


def _length(batch: object) -> int:
    """How many samples a batch is of."""
    if not isinstance(batch, Mapping) or not batch:
        raise TypeError(f"conditions: expected each batch to be a dict of tensors, got {batch!r}")
    for name, value in batch.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            expected = f"expected {name} to be a tensor with the batch first, got {value!r}"
            raise TypeError(f"conditions: {expected}; what all samples share is a keyword argument of fit")
    lengths = {name: len(value) for name, value in batch.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"conditions: expected tensors of one batch to have one length > 0, got {lengths}")
    return next(iter(lengths.values()))


def _require_alike(first: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
    def kind(given: Mapping[str, Tensor]) -> dict[str, tuple]:
        return {name: (tuple(value.shape[1:]), value.dtype) for name, value in sorted(given.items())}

    if kind(first) != kind(batch):
        raise ValueError(
            f"conditions: expected all batches to be alike, got samples of {kind(first)} and then of {kind(batch)}"
        )

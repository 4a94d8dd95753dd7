"""A model that sees batches of one size alone, so that a sample's output does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class FixedBatch:
    """model(x, t, **conditions) in calls of `size` samples each; the last sample fills up what is missing.

    A convolution or a matrix product rounds differently in batches of other sizes. With one size a sample's bits are
    its own, whoever is beside it, wherever the model computes the samples of a batch in the same way.
    """

    def __init__(self, model: Callable[..., Tensor], size: int) -> None:
        self._model, self._size = model, size

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        parts = zip(*(self._filled(value) for value in (x, t, *conditions.values())), strict=True)
        outputs = [self._model(*part[:2], **dict(zip(conditions, part[2:], strict=True))) for part in parts]
        return torch.cat(outputs)[: len(x)] if outputs else torch.empty_like(x)

    def _filled(self, value: Tensor) -> list[Tensor]:
        """Parts of `size` samples."""
        missing = -len(value) % self._size
        if missing:
            value = torch.cat([value, value[-1:].expand(missing, *value.shape[1:])])
        return list(value.split(self._size)) if len(value) else []

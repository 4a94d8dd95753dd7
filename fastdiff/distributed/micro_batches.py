"""Calls of a network that are always of one size, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..sampling.model import checked_output
from ..sampling.network import as_model


class MicroBatched:
    """A model(x, t, **kwargs) on a batch, which calls the network on `size` samples at a time.

    Matrix products choose their kernel by the size of the batch, and each sums in an order of its own. So a sample has
    the same bits in any batch only where the network is called on as many samples each time.

    batch: samples of the run, a multiple of `size`. An input of r batch rows is r evaluations of each sample, such as
    guidance's two: a call has the r evaluations of its samples, as it has where they are the whole batch.
    Tensors among the keyword arguments with as many rows as x are divided with it.
    """

    def __init__(self, model: Callable, batch: int, size: int) -> None:
        self.model, self.batch, self.size = as_model(model), batch, size

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        rows = len(x)
        parts = []
        for k in range(self.batch // self.size):
            part = self._part(x, k)
            given = {name: self._part(v, k) if _has(v, rows) else v for name, v in kwargs.items()}
            m = checked_output(self.model(part, self._part(t, k), **given), part.shape)
            parts.append(m.clone().unflatten(0, (-1, self.size)))  # a model may reuse its output buffer
        return torch.cat(parts, 1).flatten(0, 1)

    def _part(self, rows: object, k: int) -> Tensor:
        """The rows of micro-batch k, of all evaluations."""
        assert isinstance(rows, Tensor)
        return rows.unflatten(0, (-1, self.batch // self.size, self.size))[:, k].flatten(0, 1)


def _has(value: object, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows

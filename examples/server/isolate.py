"""One request must not take the others down: where the model raises, each request is tried alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import fastdiff as fd

Owners = Sequence["fd.Ticket | None"]


def evaluate(
    model: Callable[..., Tensor], x: Tensor, t: Tensor, conditions: dict[str, Tensor], owners: Owners
) -> tuple[Tensor, dict[fd.Ticket, Exception]]:
    """The model's output for a step's inputs, and what it raised for which requests; their output is zero.

    A call that raises costs one more for each request. The state of nobody has changed by then.
    """
    with torch.no_grad():
        try:
            return _called(model, x, t, conditions), {}
        except Exception:
            return _one_by_one(model, x, t, conditions, owners)


def _one_by_one(
    model: Callable[..., Tensor], x: Tensor, t: Tensor, conditions: dict[str, Tensor], owners: Owners
) -> tuple[Tensor, dict[fd.Ticket, Exception]]:
    outputs, failed = torch.zeros_like(x), dict[fd.Ticket, Exception]()
    for ticket in dict.fromkeys(owner for owner in owners if owner is not None):
        mine = torch.tensor([owner is ticket for owner in owners])
        try:
            outputs[mine] = _called(model, x[mine], t[mine], {name: v[mine] for name, v in conditions.items()})
        except Exception as error:
            failed[ticket] = error
    return outputs, failed


def _called(model: Callable[..., Tensor], x: Tensor, t: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    m = model(x, t, **conditions)
    if m.shape != x.shape:
        raise ValueError(f"expected an output of shape {tuple(x.shape)}, got {tuple(m.shape)}")
    return m

"""torchdyn's NeuralODE, with which torchcfm draws, and fastdiff's: velocities of exact mixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.hosts import torchcfm as ours

from .flow_matching import Velocity, problems
from .row import EVALUATIONS, Row, error, parity, version

PACKAGE = "torchcfm"
ORDERED = {"euler": 1, "midpoint": 2, "rk4": 4}
TOLERANCE = 1e-4  # of dopri5 in torchcfm's examples


class Field(nn.Module):
    """The velocity as torchdyn calls it; counts its calls."""

    def __init__(self, field: Velocity) -> None:
        super().__init__()
        self.field, self.count = field, 0

    def forward(self, t: Tensor, x: Tensor, args: Any = None) -> Tensor:
        self.count += 1
        return self.field(t, x)


def rows() -> Iterator[Row]:
    """At each number of evaluations its fixed steps beside the default; and dopri5 with as many as that takes."""
    from torchdyn.core import NeuralODE

    for shape, velocity, noise, exact in problems():
        field = Field(velocity)
        for count in EVALUATIONS:
            default = ours.NeuralODE(field).trajectory(noise, torch.linspace(0, 1, count + 1, dtype=torch.float64))
            for method, calls in ORDERED.items():
                if count % calls:
                    continue
                t = torch.linspace(0, 1, count // calls + 1, dtype=torch.float64)
                own = NeuralODE(field, solver=method).trajectory(noise, t)[-1]
                same = None
                if method != "rk4":
                    same = parity(ours.NeuralODE(field, solver=method).trajectory(noise, t)[-1], own)
                yield Row(
                    PACKAGE, version(PACKAGE), f"NeuralODE, {shape.name}", count, method, error(own, exact), "default",
                    error(default[-1], exact), parity=same,
                )  # fmt: skip
        field.count, ends = 0, torch.tensor([0.0, 1.0], dtype=torch.float64)
        adaptive = NeuralODE(field, solver="dopri5", atol=TOLERANCE, rtol=TOLERANCE)
        own, count = adaptive.trajectory(noise, ends)[-1], field.count
        default = ours.NeuralODE(field, evaluations=count).trajectory(noise, ends)
        yield Row(
            PACKAGE, version(PACKAGE), f"NeuralODE, {shape.name}", count, "dopri5", error(own, exact), "default",
            error(default[-1], exact), default=True,
        )  # fmt: skip

"""What was noted of a run, before it is shown in any way."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from ..plans.plan import Plan
from .measures import flow_state, flow_time, levels_of, line_deviation


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """The numbers and tensors of a run; `fastdiff.Trace` says what each is."""

    plan: Plan
    output_names: tuple[str, ...]
    reference: str
    result: Tensor
    x: Tensor
    x0: Tensor
    eps: Tensor
    x_rms: Tensor
    x0_rms: Tensor
    eps_rms: Tensor
    change: Tensor
    angle: Tensor
    error: Tensor
    outputs: Tensor
    differences: Tensor
    cosines: Tensor
    weights: Tensor
    finite: Tensor
    evaluations: Tensor
    seconds: Tensor

    @property
    def accepted(self) -> list[int]:
        """The places of the states that are solutions at their times; the others are stages inside a step."""
        return [0, *(i + 1 for i, row in enumerate(self.plan.rows) if row.accepts)]

    @cached_property
    def deviation(self) -> Tensor:
        """[n + 1, K] how far the path is from the straight line between its ends, |z_i - line(tau_i)|, in z.

        Of the kept samples, at accepted states; see `angle` for z and tau.
        """
        levels, places = levels_of(self.plan), self.accepted
        z = torch.stack([flow_state(self.x[i], *levels[i]) for i in places])
        tau = torch.tensor([flow_time(*levels[i]) for i in places], dtype=torch.float64)
        found = torch.full(self.x.shape[:2], torch.nan, dtype=torch.float64)
        found[places] = line_deviation(z, tau)
        return found

    @property
    def first_not_finite(self) -> tuple[int, int] | None:
        """(step, sample) of the first state or x0 with NaN or infinity, None where all are finite."""
        bad = (~self.finite).nonzero()
        return None if not len(bad) else (int(bad[0, 0]), int(bad[0, 1]))


TENSORS = tuple(field.name for field in fields(Record))[3:]

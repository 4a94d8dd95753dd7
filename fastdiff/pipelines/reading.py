"""How a pipeline's network reads x and t of the schedule, and how its output is read.

`Reading` is for networks on the schedule's own x and t, `FlowReading` for times counted in training steps, `EdmReading`
for the preconditioning of Karras et al. 2022 (arXiv 2206.00364), table 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..plans.schedule import Schedule


class Reading:
    """A variance-preserving network, which is given x and t as they are."""

    def times(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the pipeline's scheduler has for `timesteps` and `sigmas` at the times t [n]."""
        return t, torch.full_like(t, float("nan"))  # no pipeline with such a network reads sigmas

    def scaled(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's input."""
        return x

    def prediction(self, m: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What the schedule's `default_prediction` names, of the network's output m."""
        return m


class FlowReading(Reading):
    """A flow network: timesteps are `unit` times t, and sigma is t."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def times(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t * self.unit, t


class EdmReading(Reading):
    """A preconditioned network F: D = c_skip x + c_out F(c_in x, log(sigma) / 4), with t = sigma.

    data: sigma_data. prediction: "epsilon" for c_out as in the paper, "v_prediction" for -c_out.
    """

    def __init__(self, data: float, prediction: str) -> None:
        self.data, self.sign = data, -1.0 if prediction == "v_prediction" else 1.0

    def times(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 0.25 * t.log(), t

    def scaled(self, x: Tensor, t: Tensor) -> Tensor:
        return x * self._total(t).rsqrt().to(x)

    def prediction(self, m: Tensor, x: Tensor, t: Tensor) -> Tensor:
        total = self._total(t)
        skip, out = self.data**2 / total, self.sign * self.data * t * total.rsqrt()
        return skip.to(x) * x + out.to(x) * m.to(x)

    def _total(self, t: Tensor) -> Tensor:
        return t**2 + self.data**2


def reading_of(scheduler: Any, schedule: Schedule) -> Reading:
    """How the network of a pipeline with this scheduler reads the schedule's x and t."""
    config = scheduler.config
    if schedule.kind == "flow":
        return FlowReading(config.get("num_train_timesteps", 1000))
    if schedule.kind == "ve":
        return EdmReading(config.get("sigma_data", 1.0), config["prediction_type"])
    return Reading()

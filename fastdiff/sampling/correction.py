"""What an observation does at one model evaluation: D' in the place of D = E[x0 | x]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..plans.plan import Plan
from ..plans.row import Row


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model: x = alpha x0 + sigma eps, and what the model says of x0.

    i: the number of this evaluation. plan: the run's, as one whose rows are given x0. x: [B, ...]. denoised: D
    [B, ...], guidance included. vjp: v [B, ...] -> J^T v, J = dD/dx, sample by sample, as often as wanted; it exists
    where the correction asks for gradients. Tensors are float32 or float64.
    """

    i: int
    plan: Plan
    x: Tensor
    denoised: Tensor
    vjp: Callable[[Tensor], Tensor]

    @property
    def row(self) -> Row:
        """The plan's row, which reads D'."""
        return self.plan.rows[self.i]

    @property
    def n(self) -> int:
        """How many evaluations the run has."""
        return self.plan.nfe

    @property
    def t(self) -> float:
        """The model's time."""
        return self.row.t

    @property
    def alpha(self) -> float:
        return self.row.alpha

    @property
    def sigma(self) -> float:
        return self.row.sigma

    @property
    def ratio(self) -> float:
        """s = sigma / alpha, the noise level of EDM; infinite where alpha is 0."""
        return self.sigma / self.alpha if self.alpha else math.inf

    def covariance(self, v: Tensor) -> Tensor:
        """C v [B, ...], C = Cov[x0 | x] = (sigma^2 / alpha) J, Tweedie's formula of second order, where alpha > 0."""
        return self.vjp(v) * (self.sigma**2 / self.alpha)


class Correction:
    """Base of the corrections of `fastdiff.posterior`: frozen values that say how D becomes D'.

    gradients: whether it calls `Evaluation.vjp`. The model then records a graph, of one evaluation at a time.
    checks: whether what it asks of A goes through the observation, which checks the first answer.
    """

    checks = False

    @property
    def gradients(self) -> bool:
        return False

    def __call__(self, at: Evaluation) -> Tensor:
        """D' [B, ...]."""
        raise NotImplementedError

    def weighed(self, at: Evaluation) -> tuple[Tensor, Tensor]:
        """D' [B, ...], and [B] float64 an estimate of log p(y | x), for particles.

        Raises ValueError where there is none.
        """
        raise ValueError("particles: expected a named correction, or one of fastdiff.posterior")

    def plan(self, plan: Plan) -> Plan:
        """The plan to run instead: for methods that change the noise of rows, too."""
        return plan


def is_corrected(observation: Observed | None, correction: object) -> bool:
    """Whether these options of `fastdiff.sample` correct D."""
    return observation is not None or correction is not None


class ByFunction(Correction):
    """A user's function of an `Evaluation`. The graph is recorded, in case that it calls `vjp`."""

    def __init__(self, function: Callable[[Evaluation], Tensor]) -> None:
        self._function = function

    @property
    def gradients(self) -> bool:
        return True

    def __call__(self, at: Evaluation) -> Tensor:
        return self._function(at)


class Observed(Protocol):
    """What `fastdiff.sample` needs of an observation; `fastdiff.Observation` is one."""

    def over(self, like: Tensor) -> Observed:
        """The observation for samples like x [B, ...]. Raises ValueError where their number does not fit."""
        ...

    def correction(self, named: object) -> Correction:
        """The correction of this name, or of these values. Raises TypeError or ValueError naming the argument."""
        ...

    def check(self, denoised: Tensor) -> None:
        """Raises ValueError where A, on the first D, gives no finite tensor of the observation's shape.

        For corrections that leave it to the run.
        """
        ...

    def log_likelihood(self, x0: Tensor) -> Tensor:
        """[B] log p(y | x0), float64."""
        ...

    def misfit(self, x0: Tensor) -> Tensor:
        """[B] the mean of ((y - A x0) / noise)^2: about 1 where x0 fits."""
        ...

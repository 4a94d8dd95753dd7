"""The base of the corrections D' = D + K (y - A D)."""

from __future__ import annotations

from torch import Tensor

from ..plans.plan import Plan
from ..sampling.correction import Evaluation
from .measurements import Measurements


class Method:
    """Base: frozen values, without the observation.

    gradients: whether gradients through the model are taken. any_noise: whether other noise than Gaussian will do.
    """

    @property
    def gradients(self) -> bool:
        return False

    @property
    def any_noise(self) -> bool:
        return False

    def corrected(self, at: Evaluation, observation: Measurements) -> Tensor:
        """D' [B, ...]."""
        raise NotImplementedError

    def weighed(self, at: Evaluation, observation: Measurements) -> tuple[Tensor, Tensor]:
        """D' [B, ...], and [B] float64 an estimate of log p(y | x), for the weights of particles."""
        raise ValueError(f"particles: expected 'moment', 'gaussian' or 'gradient', got {type(self).__name__}")

    def plan(self, plan: Plan, observation: Measurements) -> Plan:
        """The plan to run instead. Raises ValueError where the method cannot serve it."""
        return plan


def positive(name: str, value: float) -> None:
    """Raises ValueError unless the number is finite and > 0."""
    if isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")


def whole(name: str, value: int) -> None:
    """Raises ValueError unless it is a whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")

"""Rows without an unconditional call: u is what the latest ones, and the conditional output, say it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..plans.row import MAX_UNCOND
from .model import is_guided
from .rule import Guidance, Point, Rule


def reusing(scale: np.ndarray, b: Sequence[float]) -> Rule:
    """y = c + (1 - g) (u - c) for u = b_0 c + sum_k b_k P_k, with P_1 ... P_3 what is kept of earlier calls.

    scale: g, [] or [B].
    """
    # P_1 stands in the place of u, and weights are of differences from it: w_u is the sum of all weights.
    away = 1 - scale
    second, third = (away * b[k] if len(b) > k else 0.0 * scale for k in (2, 3))
    columns = [scale + away * b[0], scale + away * sum(b), second, third, 0.0 * scale, 0.0 * scale]
    return Rule((0,), weights=np.stack(columns, axis=-1)[..., None, :], past=len(b) - 1)


@dataclass(frozen=True)
class PlanReuse(Guidance):
    """Classifier-free guidance of scale g, a number or [B], with the unconditional calls that the plan's rows make."""

    scale: float | tuple[float, ...]

    @classmethod
    def of(cls, guidance: float | Tensor | Guidance | None) -> PlanReuse:
        """For plans with such rows. Raises ValueError where it is not plain guidance."""
        if isinstance(guidance, Guidance) or not is_guided(guidance):
            raise ValueError(
                "guidance: the plan was fitted under guidance, and some of its rows take the unconditional output from"
                f" earlier ones; expected a scale other than 1, a number or [B], got {guidance!r}"
            )
        return cls(tuple(guidance.tolist()) if isinstance(guidance, Tensor) else float(guidance))  # type: ignore[arg-type]

    @property
    def keeps_uncond(self) -> int:
        """As many as a row may read."""
        return MAX_UNCOND

    @property
    def keeps_difference(self) -> bool:
        """Always: u - c changes less than u."""
        return True

    def rule(self, point: Point) -> Rule:
        """Plain guidance where the row makes the call."""
        assert point.row is not None  # as it is a plan that asks
        g = np.asarray(self.scale)
        if point.row.uncond:
            return reusing(g, (1.0, *point.row.uncond))
        return Rule((0, 1), scale=g if g.ndim else float(g))

"""The turns of a path: the angle between its directions before and after each state, in the flow's coordinate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .measures import angle, flow_state, flow_time


class Path:
    """The accepted states of a run so far, as far as the next turn needs them.

    With z = x / (alpha + sigma) and tau = sigma / (alpha + sigma) the direction from one state to the next is
    (z' - z) / (tau' - tau). It is eps - x0 all along where those two do not change, so a straight path makes no turns.
    """

    def __init__(self) -> None:
        self._last: tuple[int, Tensor, float] | None = None  # place, z, tau
        self._direction: Tensor | None = None

    def turn(self, i: int, x: Tensor, alpha: float, sigma: float, moved: Tensor) -> tuple[int, Tensor] | None:
        """The place of the state before this one and the angle [B] of the path there, from its third state on.

        moved: [B] whether another sample has taken this one's place since; its angles are NaN then.
        """
        last, before = self._last, self._direction
        z, tau = flow_state(x, alpha, sigma), flow_time(alpha, sigma)
        self._last = i, z, tau
        if last is None:
            return None
        place, last_z, last_tau = last
        self._direction = (z - last_z) / (tau - last_tau) if tau != last_tau else torch.full_like(z, math.nan)
        self._direction[moved] = math.nan
        return None if before is None else (place, angle(before, self._direction))

"""Importance sampling of training times by the history of losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Importance:
    """Draws u in [0, 1] more often where losses were large, with weights that leave the mean loss as it is.

    [0, 1] is divided into bins; a bin i is drawn with p_i ~ sqrt(E L_i^2), the mean over its last losses, and a share
    `floor` of draws is uniform (Nichol & Dhariwal 2021, eq. 18, "loss-second-moment"). Until every bin has a whole
    history draws are uniform.

        u, weight = chooser.draw(B)
        each = training.loss(model, schedule, x0, t=law(schedule, u), reduction="none")
        chooser.update(u, each)
        (weight * each).mean().backward()

    Where several processes train, gather u and losses of all before `update`, so that all draw alike.
    bins: the paper has one for each of 1000 times. history: losses that a bin remembers.
    Raises ValueError naming the argument.
    """

    def __init__(self, bins: int = 100, *, history: int = 10, floor: float = 0.001) -> None:
        if bins < 1 or history < 1:
            raise ValueError(f"bins, history: expected whole numbers >= 1, got {bins}, {history}")
        if not 0 < floor <= 1:
            raise ValueError(f"floor: expected a number in (0, 1], got {floor}")
        self.floor = floor
        self.losses = torch.zeros(bins, history, dtype=torch.float64)
        self.counts = torch.zeros(bins, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """p [bins] float64."""
        bins, history = self.losses.shape
        even = torch.full((bins,), 1 / bins, dtype=torch.float64)
        size = self.losses.square().mean(1).sqrt()
        if int(self.counts.min()) < history or not size.sum() > 0:
            return even
        return (1 - self.floor) * size / size.sum() + self.floor * even

    def draw(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """u [count] and weights 1 / density(u) [count], float32 on the CPU. generator: on the CPU."""
        p = self.probabilities()
        chosen = torch.multinomial(p, count, replacement=True, generator=generator)
        u = (chosen + torch.rand(count, generator=generator)) / len(p)
        return u, (1 / (len(p) * p[chosen])).float()

    def update(self, u: Tensor, losses: Tensor) -> None:
        """Remember losses [B], without weights, of draws u [B]. Raises ValueError for shapes that differ."""
        if u.shape != losses.shape or u.ndim != 1:
            raise ValueError(f"losses: expected [B] as u, got {tuple(losses.shape)} and {tuple(u.shape)}")
        bins, history = self.losses.shape
        places = (u.detach().cpu().double() * bins).long().clamp(0, bins - 1).tolist()
        for place, value in zip(places, losses.detach().cpu().double().tolist(), strict=True):
            self.losses[place, int(self.counts[place]) % history] = value
            self.counts[place] += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"losses": self.losses.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`. Raises ValueError for another number of bins or another history."""
        if state["losses"].shape != self.losses.shape:
            expected, got = tuple(self.losses.shape), tuple(state["losses"].shape)
            raise ValueError(f"state: expected losses [bins, history] = {expected}, got {got}")
        self.losses, self.counts = state["losses"].double().clone(), state["counts"].clone()

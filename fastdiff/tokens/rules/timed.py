"""The masked process in time: each token is committed at a random time, by itself.

alpha is the probability that a token is no mask. From alpha_t to alpha_s > alpha_t a masked position stays one with
probability (1 - alpha_s) / (1 - alpha_t), and else becomes a token drawn from the model (MDLM, arXiv:2406.07524).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Moment, Rule, is_number, most, require


@dataclass(frozen=True)
class Ancestral(Rule):
    """The process itself over the plan's shares: a binomial number of random positions a step (arXiv:2406.07524)."""

    name: ClassVar[str] = "ancestral"
    timed: ClassVar[bool] = True

    def advance(self, m: Moment) -> Tensor:
        now, then = m.grid
        return m.commit(m.masked & (m.uniform() < (then - now) / (1 - now)), m.evaluate().sample)


@dataclass(frozen=True)
class FirstHitting(Rule):
    """The process in continuous time, one token a call (arXiv:2409.02908): exact for an exact model.

    With n masked tokens the next is committed at 1 - alpha' = (1 - alpha) u^(1/n), a random one. The times matter to
    models that are given them; for others this is `RandomOrder` one by one.
    """

    name: ClassVar[str] = "first_hitting"
    adaptive: ClassVar[bool] = True
    sized: ClassVar[bool] = False

    def advance(self, m: Moment) -> Tensor:
        left = m.masked.sum(-1)
        noise = m.memory.get("noise", torch.ones_like(m.alpha))
        first = m.open.int().argmax(-1, keepdim=True)  # each sample's own number: of its window's first open place
        u = m.uniform(1).gather(-1, first)[:, 0]
        noise = noise * u ** (1 / left.clamp(min=1))
        m.memory["noise"] = noise
        return m.commit(most(m.shuffle(), m.quota, m.masked), m.evaluate(alpha=1 - noise).sample)


@dataclass(frozen=True)
class ReMDM(Rule):
    """The masked process whose tokens may go back to masks, with the same law at every time (arXiv:2503.00307).

    A token is masked again with probability sigma; a mask stays one with (1 - alpha_s - sigma alpha_t) / (1 - alpha_t).
    The largest sigma is min(1, (1 - alpha_s) / alpha_t).

    schedule: "cap", sigma = min(eta, the largest); "rescale", eta times the largest; "confidence", that of "rescale"
        shared out by softmax(-p) over the tokens, p the probability each was committed with (this one does not keep
        the law). eta: in [0, 1]; at 0 this is `Ancestral`, bit for bit.
    window: the part of the steps, in [0, 1], in which sigma is not 0. A plan whose sizes are 0 there loops: the share
        stays, and tokens are exchanged.
    """

    eta: float = 0.02
    schedule: str = "cap"
    window: tuple[float, float] = (0.0, 1.0)
    name: ClassVar[str] = "remdm"
    keeps: ClassVar[bool] = False
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("eta", self.eta, is_number(self.eta) and 0 <= self.eta <= 1, "a number in [0, 1]")
        schedules = ("cap", "rescale", "confidence")
        require("schedule", self.schedule, self.schedule in schedules, f"one of {', '.join(schedules)}")
        pair = isinstance(self.window, tuple) and len(self.window) == 2 and all(map(is_number, self.window))
        right = pair and 0 <= self.window[0] <= self.window[1] <= 1
        require("window", self.window, right, "two numbers 0 <= a <= b <= 1")

    def sigma(self, now: float, then: float, progress: float) -> float:
        """The probability that a token is masked again, of a step that begins at this part of the run."""
        if not self.window[0] <= progress <= self.window[1]:
            return 0.0
        largest = min(1.0, (1 - then) / now) if now > 0 else 1.0
        return min(self.eta, largest) if self.schedule == "cap" else self.eta * largest

    def advance(self, m: Moment) -> Tensor:
        now, then = m.grid
        sigma, stats, u = self.sigma(now, then, m.i / m.steps), m.evaluate(), m.uniform()
        back: Tensor | float = sigma
        if self.schedule == "confidence":
            back, sigma = sigma * self._shares(m), 0.0
        unmask = m.masked & (u < (then - (1 - sigma) * now) / (1 - now))
        remask = m.open & ~m.masked & (u < back)
        if self.schedule == "confidence":
            prob = stats.log_prob.exp().double()
            m.memory["prob"] = torch.where(unmask, prob, m.memory.get("prob", torch.zeros_like(prob)))
        return m.commit(unmask, stats.sample).masked_fill(remask, m.mask_id)

    def _shares(self, m: Moment) -> Tensor:
        filled = m.open & ~m.masked
        prob = m.memory.get("prob", torch.zeros_like(m.masked, dtype=torch.float64))
        return (-prob).masked_fill(~filled, -torch.inf).softmax(-1).nan_to_num(nan=0.0)

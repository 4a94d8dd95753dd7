"""Descent on the numbers of a plan: Gauss-Newton steps from random batches.

A plan has a few hundred numbers, so the curvature of the whole problem is a small matrix. Giving each sample its own
table makes one backward pass yield every sample's gradient; the gradient u of a random combination of its errors has
E[u u^T] = J^T J, the Gauss-Newton matrix (Schraudolph 2002; Hutchinson 1990 for the random signs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import Plan
from .space import PlanSpace
from .target import FitTarget
from .unroll import unroll

Start = Callable[[Tensor, Plan], Tensor]

MAX_RATE = 1.0  # of a Gauss-Newton step; it falls to 0 like a cosine
WARMUP_STEPS = 10
MAX_MOVE = 1.0  # of a number in one step, in units of its width
MAX_MEMORY = 0.95  # of the running mean of the curvature
PRIOR, DAMPING = 1e-3, 1e-3  # of the identity, times the loss; of the curvature's diagonal (Marquardt 1963)
ERROR_FLOOR = 0.1  # of the median error: below it a sample's error weighs as its square


@dataclass
class State:
    """Where a descent stands: iteration, numbers in units of their widths, curvature and how often it was seen."""

    i: int
    q: np.ndarray
    curvature: np.ndarray
    seen: int = 0


class Descent:
    """Minimises the mean over samples of the root mean square distance from the reference samples.

    That mean, not the mean square, because a few samples end in another basin and would rule the fit.
    p: the numbers where it begins, and which the prior holds it to.
    """

    def __init__(
        self,
        space: PlanSpace,
        target: FitTarget,
        references: Tensor,
        p: np.ndarray,
        seed: int,
        start: Start | None = None,
        save_memory: bool = False,
    ) -> None:
        self.space, self.target, self.references = space, target, references
        self.seed, self.start, self.save_memory = seed, start, save_memory
        self.first = p / space.widths
        self.state = State(0, self.first.copy(), np.zeros((space.size, space.size)))
        read = np.abs(space.jacobian(self.numbers)[:, :-1]).sum(2) + np.abs(space.table(self.numbers)[:, :-1])
        self._active = read > 0

    @property
    def numbers(self) -> np.ndarray:
        """The plan space's p."""
        return self.state.q * self.space.widths

    def advance(self, rate: float) -> float:
        """One step on a random batch; returns the batch's mean distance."""
        state, count = self.state, len(self.references)
        # A batch follows from the iteration alone, so an interrupted fit goes on with the ones that it would have had.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + state.i)
        part = torch.randperm(count, generator=generator)[: self.target.batch]
        loss, gradient, probe = self._derivatives(part, generator)
        if not (np.isfinite(gradient).all() and np.isfinite(probe).all()):
            state.i += 1  # a batch that overflowed moves nothing
            return loss
        state.seen += 1
        # The mean of all batches so far, then a running one: the curvature moves with the plan.
        memory = min(MAX_MEMORY, 1 - 1 / state.seen)
        state.curvature = memory * state.curvature + (1 - memory) * probe.T @ probe / len(part)
        prior = PRIOR * loss
        damping = prior + DAMPING * np.diag(state.curvature)
        # The gradient of loss + prior |q - first|^2 / 2: where the samples say nothing a number stays what it was.
        towards = gradient + prior * (state.q - self.first)
        step = np.linalg.solve(state.curvature + np.diag(damping), towards)
        rate *= MAX_RATE * min(1.0, (state.i + 1) / WARMUP_STEPS)
        move = step * min(rate, MAX_MOVE / max(float(np.abs(step).max()), 1e-30))
        # Shorter and shorter it ends at q itself, which was reached before.
        while not self.space.reaches((state.q - move) * self.space.widths):
            move /= 2
        state.q -= move
        state.i += 1
        return loss

    def _derivatives(self, part: Tensor, generator: torch.Generator) -> tuple[float, np.ndarray, np.ndarray]:
        """(mean distance, its gradient [size], one random row of each sample's Jacobian [n, size])."""
        space, p, ranks = self.space, self.numbers, self.target.ranks
        own = ranks.share(part)
        table = torch.from_numpy(space.table(p)).to(self.references.device)
        leaf = table.expand(len(own), -1, -1).clone().requires_grad_()
        x = self.target.started(space.plan, own, self.start)
        out = unroll(space.plan, leaf, self._active, x, self.target.evaluator(own), self.save_memory)
        # The way back through a model costs about two of its evaluations.
        self.target.spend(part, 3 * space.plan.nfe)
        error = (out - self.references[own]).flatten(1).double()
        each = error.square().mean(1).sqrt()
        known = ranks.whole(each.detach(), len(part))
        # The gradient of a sample's root mean square |e| is J^T e / (n |e|): the least squares with that gradient weigh
        # the sample by 1 / |e|, bounded for samples that are met exactly.
        weight = 1 / (each.detach() + ERROR_FLOOR * known.median())
        shape = (len(part), error.shape[1])
        signs = ranks.share(torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(error)
        # E[signs signs^T] = 1: the gradients of this sum have the weighted J^T J as their mean square.
        probe = (error * signs * (weight / error.shape[1]).sqrt()[:, None]).sum()
        (slope,) = torch.autograd.grad(each.sum(), leaf, retain_graph=True)
        (sketch,) = torch.autograd.grad(probe, leaf)
        jacobian = space.jacobian(p).reshape(-1, space.size) * space.widths
        slope, sketch = (ranks.whole(g.flatten(1), len(part)).cpu().numpy() @ jacobian for g in (slope, sketch))
        return float(known.mean()), slope.mean(0), sketch

"""Weighted groups of samples given an observation: the twisted diffusion sampler (TDS, Wu et al. 2023).

A correction is right on average only where the data are Gaussian; with several modes it gives them the wrong weights.
Here the corrected run is a proposal. With the twist p(y | x_i), an estimate of the likelihood of x_i, a particle's
weight at row i is multiplied by (Wu et al., eq. 8)

    p(y | x_i) / p(y | x_{i-1}) * N(x_i; mean without correction, tau^2) / N(x_i; mean with it, tau^2)

and at the end by the likelihood of x0 itself over the last twist. Whatever the twist, the weighted particles have the
law of the posterior as their number grows; a good twist needs fewer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.philox import normal, uniform
from ..plans.plan import Plan
from .corrected import CorrectedCalls, CorrectedEvaluator
from .correction import Correction, Evaluation, Observed
from .guided import GuidedCalls
from .model import ModelCalls
from .registers import next_history
from .run import Run

LEAST_EFFECTIVE = 0.5  # of a group, below which it is resampled (Wu et al., section 3)


class Particles(NamedTuple):
    """The weights of G groups of K particles: sample g K + k of the batch is particle k of group g.

    weights: [G, K] float64, of sum 1. effective: [n, G] the effective number of particles 1 / sum w^2 at each row,
    before it is resampled. log_evidence: [G] the estimate of log p(y), whose exponential has no bias.
    """

    weights: Tensor
    effective: Tensor
    log_evidence: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """[G, ...] the weighted mean of x [G K, ...]."""
        groups = x.unflatten(0, self.weights.shape)
        return (self.weights.to(x).view(*self.weights.shape, *[1] * (x.ndim - 1)) * groups).sum(1)

    def resampled(self, x: Tensor, seeds: Tensor) -> Tensor:
        """[G K, ...] of equal weights, drawn from x [G K, ...] by systematic resampling. seeds: [G] int64."""
        return x[_in_batch(_ancestors(self.weights, uniform(seeds.to(self.weights.device), 2**32 - 1)))]


class ParticleCalls(CorrectedCalls):
    """The calls of a run of weighted groups. count: K, the particles of a group.

    Raises ValueError naming the argument.
    """

    latest: ParticleEvaluator

    def __init__(
        self,
        calls: ModelCalls | GuidedCalls,
        plan: Plan,
        correction: Correction,
        observation: Observed,
        count: int,
    ) -> None:
        super().__init__(calls, plan, correction, observation)
        self.count = count
        self.run_plan = self.plan  # weights take the plan's own noise for granted
        if isinstance(self.calls, GuidedCalls) and (self.calls.of.stateful or self.calls.of.keeps_uncond):
            raise ValueError(f"guidance: {self.calls.of!r} keeps a state of each sample, particles exchange theirs")
        for i, row in enumerate(plan.rows):
            if row.base is not None:
                raise ValueError(f"particles: expected a plan of one stage a step, row {i} of {plan.solver} has more")
        if not plan.stochastic:
            raise ValueError(f"particles: expected a plan that draws noise, {plan.solver} does not; eta=1 makes one")

    def evaluator(self, run: Run | None = None) -> ParticleEvaluator:
        """What evaluates the model, corrects D and moves the particles of this run."""
        assert run is not None
        self.latest = ParticleEvaluator(self, run)
        return self.latest


class ParticleEvaluator(CorrectedEvaluator):
    """A run's evaluations, which also move the run's particles about."""

    def __init__(self, calls: ParticleCalls, run: Run) -> None:
        super().__init__(calls, run)
        groups = len(run.x) // calls.count
        self._shape = groups, calls.count
        self._log_weights = run.x.new_zeros(self._shape, dtype=torch.float64)
        self._log_evidence = run.x.new_zeros(groups, dtype=torch.float64)
        self._pending = run.x.new_zeros(len(run.x), dtype=torch.float64)  # of the latest row, less its twist
        self._effective: list[Tensor] = []
        self._shifts: tuple[Tensor, ...] = ()  # what corrections have changed in the history's outputs
        assert run.seeds is not None  # a plan that draws noise has them
        self._seeds = run.seeds

    def _corrected(self, at: Evaluation) -> Tensor:
        """D', or D in rows that draw no noise: no weight could make good for a shift there."""
        corrected, twist = self._calls.correction.weighed(at)
        if not at.row.x.spread:
            corrected = at.denoised
        self._log_weights += (self._pending + twist).view(self._shape)
        self._effective.append(_effective(self._log_weights))
        chosen = self._choose(at.i)
        if chosen is not None:
            corrected, twist = corrected[chosen], twist[chosen]
            self._shifts = tuple(shift[chosen] for shift in self._shifts)
            self._exchange(chosen)
            shift = corrected - at.denoised[chosen]
        else:
            shift = corrected - at.denoised
        self._pending = self._log_ratio(at, shift) - twist
        return corrected

    def _log_ratio(self, at: Evaluation, shift: Tensor) -> Tensor:
        """[B] log N(x'; mean without corrections) / N(x'; mean with them), of the x' that the row will make."""
        row = at.row
        shifts = (row.p_m * shift, *self._shifts)
        self._shifts = next_history(self._run.moves[at.i], self._shifts, row.p_m * shift)
        spread = row.x.spread
        if not spread:
            return torch.zeros_like(self._pending)
        moved = sum((w * s for w, s in zip(row.x.history, shifts, strict=False)), torch.zeros_like(shift))
        moved = moved.flatten(1).double()
        noise = torch.zeros_like(moved)
        for j, weight in row.x.noise:
            noise += weight * normal(self._seeds, j, moved.shape[1], torch.float64)
        return -(moved * (2 * noise + moved)).sum(1) / (2 * spread**2)

    def _choose(self, i: int) -> Tensor | None:
        """[B] the place of each particle's ancestor, where any group has too few effective ones."""
        poor = self._effective[-1] < LEAST_EFFECTIVE * self._shape[1]
        if not bool(poor.any()):
            return None
        groups, count = self._shape
        weights = torch.softmax(self._log_weights, 1)
        own = torch.arange(count, device=weights.device).expand(groups, count)
        chosen = torch.where(poor[:, None], _ancestors(weights, uniform(self._seeds[::count], i)), own)
        level = torch.logsumexp(self._log_weights, 1) - math.log(count)
        self._log_evidence += torch.where(poor, level, 0.0)
        self._log_weights = torch.where(poor[:, None], 0.0, self._log_weights)
        return _in_batch(chosen)

    def _exchange(self, chosen: Tensor) -> None:
        """Put the chosen particles in the places of the run's."""
        for register in (self._run.x, *self._run.history):
            register.copy_(register[chosen])

    def particles(self) -> Particles:
        """The weights now: those of x0 after the last row."""
        last = self._pending
        if self._run.i == self._run.plan.nfe:
            assert self._calls.observation is not None
            last = last + self._calls.observation.log_likelihood(self._run.x)
        log_weights = self._log_weights + last.view(self._shape)
        evidence = self._log_evidence + torch.logsumexp(log_weights, 1) - math.log(self._shape[1])
        return Particles(torch.softmax(log_weights, 1), torch.stack(self._effective), evidence)


def _effective(log_weights: Tensor) -> Tensor:
    """[G] 1 / sum w^2."""
    return 1 / torch.softmax(log_weights, 1).square().sum(1)


def _ancestors(weights: Tensor, u: Tensor) -> Tensor:
    """[G, K] places in 0 to K - 1 by systematic resampling. weights: [G, K] of sum 1. u: [G] in (0, 1)."""
    count = weights.shape[1]
    points = (u[:, None] + torch.arange(count, device=weights.device)) / count
    return torch.searchsorted(weights.cumsum(1), points).clamp(max=count - 1)


def _in_batch(places: Tensor) -> Tensor:
    """[G K] places in the batch for places [G, K] in each group."""
    groups, count = places.shape
    return (places + torch.arange(groups, device=places.device)[:, None] * count).flatten()

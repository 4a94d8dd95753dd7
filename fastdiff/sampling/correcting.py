"""From the options of `fastdiff.sample` to the calls of a corrected run."""

from __future__ import annotations

from torch import Tensor

from ..plans.plan import Plan
from .corrected import CorrectedCalls
from .correction import ByFunction, Observed
from .guided import GuidedCalls
from .model import ModelCalls
from .particles import ParticleCalls


def corrected_calls(
    calls: ModelCalls | GuidedCalls,
    plan: Plan,
    x: Tensor,
    observation: Observed | None,
    correction: object,
    particles: int,
    cheap_calls: bool,
) -> CorrectedCalls:
    """The calls of a run from x [B, ...] given an observation, or corrected by a function alone.

    Raises TypeError or ValueError naming the argument.
    """
    if observation is not None:
        observation = observation.over(x)
        named = observation.correction(correction)
    elif callable(correction):
        named = ByFunction(correction)
    else:
        raise ValueError(f"observation: {'particles' if correction is None else repr(correction)} need it, got None")
    if named.gradients and cheap_calls:
        raise ValueError("correction: it takes gradients through the model, which cheap calls do not give")
    if particles == 1:
        return CorrectedCalls(calls, plan, named, observation)
    if observation is None:
        raise ValueError("observation: particles need one, got None")
    _check_particles(particles, len(x))
    return ParticleCalls(calls, plan, named, observation, particles)


def _check_particles(particles: int, batch: int) -> None:
    """Raises ValueError."""
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
        raise ValueError(f"particles: expected a whole number >= 1, got {particles!r}")
    if batch % particles:
        raise ValueError(f"particles: {particles} do not divide the batch of {batch}")

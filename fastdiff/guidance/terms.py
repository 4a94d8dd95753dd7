"""Guidance away from worse outputs: perturbed attention, skipped layers, a weaker model, and sums of such terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..sampling.rule import Call, Point, Rule
from . import scales
from .call import checked_call
from .combination import Vector, change, vector
from .scaled import Scaled
from .scales import Scale
from .spaces import to_space
from .windowed import Interval, checked_interval, within


@dataclass(frozen=True, eq=False)
class Term:
    """One term s (c - c_k) of `Terms`.

    scale: s, a number, [B] numbers or a function of the point. call: what gives c_k: other keyword arguments for the
        same model, or another model(x, t, **kwargs), such as the same network with a perturbation.
    interval: (low, high) of sigma / alpha where the term acts and its call is made; everywhere if None.
    Raises ValueError naming the argument.
    """

    scale: Scale
    call: Call = field(repr=False)
    interval: Interval | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", scales.scale_field("scale", self.scale))
        object.__setattr__(self, "interval", checked_interval(self.interval))
        checked_call("call", self.call)


@dataclass(frozen=True, eq=False, repr=False)
class Terms(Scaled):
    """A sum of guidance terms:

        y = u + g (c - u) + sum_k s_k (c - c_k)

    where c_k is the output of a call that is worse in some respect. With the right calls this is perturbed-attention
    guidance (Ahn et al. 2024), smoothed-energy guidance (Hong 2024), skip-layer guidance, spatiotemporal skip guidance
    (Hyung et al. 2025) and their sums, LTX's multi-modal guidance among them. It is the same in every space.

    scale: g; 1 for none, then there is no unconditional call. terms: `Term`s, as many as four calls allow: two beside
        the unconditional one, three without.
    rescale, interval: as for `CFG`; the interval is the one of g alone, since each term has its own.
    Raises ValueError naming the argument.
    """

    terms: Sequence[Term] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        terms = tuple(self.terms)
        if not all(isinstance(term, Term) for term in terms):
            raise ValueError(f"terms: expected Term(scale, call), got {self.terms!r:.80}")
        if len(terms) > (2 if self.needs_uncond else 3):
            raise ValueError(f"terms: expected at most four calls in all, got {len(terms)} terms")
        object.__setattr__(self, "terms", terms)

    @property
    def extra(self) -> tuple[Call, ...]:
        """The terms' calls."""
        return tuple(term.call for term in self.terms)

    def rule(self, point: Point) -> Rule:
        """The rule: constant weights, but for `rescale`."""
        scale = scales.at(self.scale, point) if within(self.interval, point) else 1.0
        worse: list[tuple[int, np.ndarray]] = [] if scales.is_one(scale) else [(1, np.asarray(scale) - 1)]
        for k, term in enumerate(self.terms):
            s = np.asarray(scales.at(term.scale, point) if within(term.interval, point) else 0.0)
            if s.any():
                worse.append((2 + k, s))
        if not worse:
            return Rule()
        # The first of them stands in u's place: differences are taken from it.
        calls = (0, *(call for call, _ in worse))
        vectors: list[Vector] = [vector(1.0, -1.0), vector(1.0, second=-1.0), vector(1.0, third=-1.0)]
        return change(
            calls, vectors[: len(worse)], [s for _, s in worse], rescale=self.rescale, space=to_space(point, self.space)
        )

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where scales are not one for each sample."""
        super().check(shape)
        for k, term in enumerate(self.terms):
            scales.check_batch(f"terms[{k}].scale", term.scale, shape[0])


@dataclass(frozen=True, eq=False, repr=False)
class Autoguidance(Scaled):
    """Guidance by a worse version of the model (Karras et al. 2024, "Guiding a diffusion model with a bad version of
    itself", eq. 3):

        y = w + g (c - w)

    where w is the output of the weak model under the same condition. There is no unconditional call. It is the same in
    every space, if both models predict the same.

    scale: g; about 2 in the paper. weak: the weak model(x, t, **kwargs), or keyword arguments for the same one.
    rescale, interval: as for `CFG`. Raises ValueError naming the argument.
    """

    weak: Call = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_call("weak", self.weak)

    @property
    def extra(self) -> tuple[Call, ...]:
        """The weak model's call."""
        return (self.weak,)

    @property
    def needs_uncond(self) -> bool:
        """Never."""
        return False

    def guided(self, point: Point, scale: scales.Values) -> Rule:
        """The rule."""
        if not self.rescale:
            return Rule((0, 2), scale=np.asarray(scale) if isinstance(scale, tuple) else scale)
        added = [np.asarray(scale) - 1]
        return change((0, 2), [vector(1.0, -1.0)], added, rescale=self.rescale, space=to_space(point, self.space))

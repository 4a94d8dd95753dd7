"""The members of an ensemble by their numbers, whichever batch or process they are drawn in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import checks
from ..ops.reference import compute_dtype
from ..plans.plan import Plan
from ..sampling.model import Model
from ..sampling.noise import randn
from ..sampling.ranks import Ranks
from ..sampling.sample import sample
from .method import whole
from .observation import Observation

WATCHING = ("callback", "progress", "return_trajectory")


class Part(NamedTuple):
    """Some members x [G, m, ...]. weights, misfit: [G, m]; the misfit is NaN without an observation."""

    x: Tensor
    weights: Tensor
    misfit: Tensor

    def first(self, count: int) -> Part:
        """The first so many members."""
        return Part(*(value[:, :count] for value in self))


class Draws:
    """Members of G ensembles, drawn when called. Arguments and errors are those of `fastdiff.ensemble`.

    seeds: [G, n]. measured: [G] how many measurements there are of each; set by the first draw.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        shape: Sequence[int],
        members: int,
        seeds: int | Tensor,
        observation: Observation | None,
        particles: int,
        dtype: torch.dtype,
        device: torch.device | str | None,
        options: Mapping[str, Any],
    ) -> None:
        self.model, self.plan, self.options = model, plan, options
        self.shape, self.dtype, self.device = _shape(shape), dtype, device
        whole("particles", particles)
        self.particles = particles
        self.members = self.multiple("members", members)
        if dtype not in checks.FLOATS:
            raise ValueError(f"dtype: expected a floating-point dtype, got {dtype}")
        for name in WATCHING:
            if name in options:
                raise ValueError(f"{name}: an ensemble has none, since its runs come in batches")
        if observation is not None and len(observation.y) not in (1, self.count):
            raise ValueError(f"observation: {len(observation.y)} measurements do not go with shape {self.shape}")
        self.observation = observation
        self.seeds = _seeds(seeds, self.count, members)
        self.measured: Tensor | None = None

    @property
    def count(self) -> int:
        """G."""
        return self.shape[0]

    @property
    def bytes(self) -> int:
        """Those of one member of each ensemble."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def multiple(self, name: str, value: int) -> int:
        """The number. Raises ValueError unless it is a whole one that the particles divide."""
        whole(name, value)
        if value % self.particles:
            raise ValueError(f"{name}: expected a multiple of the {self.particles} particles, got {value}")
        return value

    def __call__(self, members: Tensor) -> Part:
        """The members of these numbers [m]. Those of an observation lie side by side in the batch, as particles do."""
        m, seeds = len(members), self.seeds[:, members].flatten()
        noise = randn((self.count * m, *self.shape[1:]), seeds, dtype=self.dtype, device=self.device)
        given = {name: self._for_each(name, value, m) for name, value in self.options.items()}
        drawn: Any = sample(
            self.model, self.plan, noise, seeds=seeds, observation=self.observation, particles=self.particles, **given
        )
        x, particles = drawn if isinstance(drawn, tuple) else (drawn, None)
        weights = torch.ones(self.count, m)
        if particles is not None:  # those of K sum to 1
            weights = particles.weights.reshape(self.count, m) * self.particles
        return Part(x.view(self.count, m, *self.shape[1:]), weights.to(x.device, torch.float64), self._misfit(x, m))

    def shared(self, rows: Tensor, ranks: Ranks) -> tuple[Part, Part]:
        """The members in rows [u, K] that this process draws, and all that are its own: fewer where rows are few."""
        drawn = self(ranks.share(rows).flatten())
        first, last = ranks.bounds(len(rows))
        return drawn, drawn.first((last - first) * rows.shape[1])

    def _for_each(self, name: str, value: Any, m: int) -> Any:
        """An option or argument for m members of each: tensors with G first are repeated, members side by side."""
        if name == "uncond" and isinstance(value, Mapping):
            return {key: self._for_each(key, each, m) for key, each in value.items()}
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != self.count:
            return value
        if name == "mask" and value.ndim < len(self.shape):
            return value  # its first dimension is not the batch
        return value.repeat_interleave(m, 0)

    def _misfit(self, x: Tensor, m: int) -> Tensor:
        """[G, m]."""
        if self.observation is None:
            return torch.full((self.count, m), torch.nan, dtype=torch.float64, device=x.device)
        x = x.to(compute_dtype(x.dtype))
        squares, counted = self.observation.over(x).deviations(x)
        found = counted.flatten(1).sum(1).view(self.count, m)
        self.measured = found[:, 0] if self.measured is None else self.measured
        return (squares.flatten(1).sum(1).view(self.count, m) / found.clamp(min=1)).to(torch.float64)


def of_all(value: Tensor, rows: Tensor, ranks: Ranks) -> Tensor:
    """Of the members in rows [u, K], from each process's drawn ones, [G, m, ...]: all [G, u K, ...]."""
    units = value.movedim(1, 0).unflatten(0, (-1, rows.shape[1])).contiguous()
    return ranks.whole(units, len(rows)).flatten(0, 1).movedim(0, 1)


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    if not sizes or not all(isinstance(n, int) and n >= 1 for n in sizes):
        raise ValueError(f"shape: expected [G, ...] of whole numbers >= 1, got {shape!r}")
    return sizes


def _seeds(seeds: int | Tensor, count: int, members: int) -> Tensor:
    """[G, n] int64."""
    if isinstance(seeds, Tensor):
        if seeds.dtype.is_floating_point or seeds.dtype.is_complex or seeds.dtype == torch.bool:
            raise TypeError(f"seeds: expected whole numbers, got {seeds.dtype}")
        checks.require_shape("seeds", seeds, (count, members))
        return seeds.to(torch.int64)
    if isinstance(seeds, bool) or not isinstance(seeds, int):
        raise TypeError(f"seeds: expected a whole number or a tensor [G, n], got {seeds!r}")
    return seeds + torch.arange(members * count).view(members, count).T

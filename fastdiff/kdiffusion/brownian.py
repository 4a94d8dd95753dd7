"""Brownian paths as pure functions of a seed: no state, no tree in memory.

The path of a seed is Levy's construction on dyadic times, written in Schauder functions: with independent standard
normals xi, W(t) is a sum of

    2^(k/2) xi_k                          for every octave [2^k, 2^(k+1)] below t, and in t = 2^k (1 + f), f in [0, 1]
    2^(k/2) f xi_k                        the straight line through its own octave
    2^(k/2) 2^(-l/2) tent_l(f) xi_(k,l)   the bridge over it, l = 0, 1, ..., 15: tent_l rises from 0 to 1/2 and falls
                                          again on the cell of length 2^-l in which f lies

The normals are Philox noises of the sample's seed, numbered by the node's place (`_index`), from 2^31 upwards, which
no solver uses. So W at a time does not depend on what else was asked, in which order, or in which batch, and runs with
more steps follow the same path. Times are rounded to 2^-16 of their octave, and lengths are those of rounded times:
increments have exactly unit variance once scaled, and are independent over intervals that do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..ops import registry
from ..ops.reference import compute_dtype
from ..plans.table import MAX_NOISE, empty_table
from ..sampling.noise import seed_tensor

DEPTH = 16
FLOOR = -24  # below 2^-24 the path is a straight line to W(0) = 0
FIRST_INDEX = 2**31


class BrownianPath:
    """Unit increments of Brownian paths, one per sample, for tensors like x [B, ...]. seeds: [B] whole numbers."""

    def __init__(self, x: Tensor, seeds: Sequence[int] | Tensor) -> None:
        self.shape, self.device, self.dtype = x.shape, x.device, compute_dtype(x.dtype)
        self.seeds = seed_tensor(seeds, len(x), x.device)

    def increment(self, start: float, end: float) -> Tensor:
        """(W(end) - W(start)) / sqrt(|end - start|) [B, ...], float32 or float64. Raises ValueError for equal times."""
        (first, before), (last, weights) = _nodes(start), _nodes(end)
        if first == last:
            raise ValueError(f"sigma, sigma_next: expected times further apart than 2^-{DEPTH}, got {start} and {end}")
        scale = abs(last - first) ** -0.5
        nodes = {node: scale * (weights.get(node, 0.0) - before.get(node, 0.0)) for node in weights | before}
        return self._sum([(node, weight) for node, weight in nodes.items() if weight])

    def _sum(self, nodes: list[tuple[int, float]]) -> Tensor:
        """sum_k weight_k xi_node_k, MAX_NOISE of them in each pass."""
        chunks = [nodes[k : k + MAX_NOISE] for k in range(0, len(nodes), MAX_NOISE)]
        table = empty_table(len(chunks))
        table["a_x"][1:] = 1.0
        for row, chunk in zip(table, chunks, strict=True):
            row["noise"][: len(chunk)] = [node for node, _ in chunk]
            row["xi_a"][: len(chunk)] = [weight for _, weight in chunk]
        x, out = (torch.empty(self.shape, dtype=self.dtype, device=self.device) for _ in range(2))
        step = registry.choose("solver_step", registry.CallSpec(x.device.type, x.dtype, tuple(x.shape)))
        for i in range(len(table)):
            step(table, i, x, x, x, None, [], None, None, self.seeds, out, None, None, None)
            x, out = out, x
        return x


class BrownianTreeNoiseSampler:
    """k-diffusion's class of this name on `BrownianPath`: sampler(sigma, sigma_next) -> unit noise like x.

    seed: one per sample, or a whole number s for the seeds s, s + 1, ...; None draws them from torch's generator.
    transform: maps sigma to the path's time. sigma_min, sigma_max, cpu: ignored; this path has no bounds and is the
    same on every device.
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: float | Tensor,
        sigma_max: float | Tensor,
        seed: int | Sequence[int] | None = None,
        transform: Callable[[Tensor], Tensor] = lambda sigma: sigma,
        cpu: bool = False,
    ) -> None:
        self.transform, self.dtype = transform, x.dtype
        self.path = BrownianPath(x, batch_seeds(seed, len(x)))

    def __call__(self, sigma: float | Tensor, sigma_next: float | Tensor) -> Tensor:
        start, end = (float(self.transform(torch.as_tensor(s, dtype=torch.float64))) for s in (sigma, sigma_next))
        return self.path.increment(start, end).to(self.dtype)


def batch_seeds(seed: int | Sequence[int] | Tensor | None, batch: int) -> Sequence[int] | Tensor:
    """One seed per sample: those given, consecutive ones from a single number, or drawn from torch's generator."""
    if seed is None:
        return torch.randint(2**62, (batch,))
    if isinstance(seed, int):
        return [(seed + b + 2**63) % 2**64 - 2**63 for b in range(batch)]
    return seed


def _nodes(t: float) -> tuple[float, dict[int, float]]:
    """t rounded to the path's resolution, and the weight of each node in W(t)."""
    if not math.isfinite(t):
        raise ValueError(f"sigma: expected a finite time, got {t}")
    size = abs(t)
    octave = math.frexp(size)[1] - 1 if size >= 2.0**FLOOR else FLOOR - 1
    start, width = (0.0, 2.0**FLOOR) if octave < FLOOR else (2.0**octave, 2.0**octave)
    f = round((size - start) / width * 2**DEPTH) / 2**DEPTH
    weights = {_index(t, k, 0): math.sqrt(2.0 ** max(k, FLOOR)) for k in range(FLOOR - 1, octave)}
    weights[_index(t, octave, 0)] = math.sqrt(width) * f
    for level in range(DEPTH):
        cell, within = divmod(f * 2**level, 1.0)
        if within == 0:
            break
        weights[_index(t, octave, 2**level + int(cell))] = math.sqrt(width / 2**level) * min(within, 1 - within)
    return math.copysign(start + width * f, t), weights


def _index(t: float, octave: int, place: int) -> int:
    """The noise's number: side of zero, octave, place in the octave's heap of cells (0 is the octave itself)."""
    return FIRST_INDEX + (((t < 0) * 256 + octave - (FLOOR - 1)) << DEPTH) + place

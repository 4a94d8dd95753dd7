"""The best number of tokens for each step, from the information curve, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def excess(curve: Values, sizes: Sequence[int]) -> float:
    """sum_n [ k_n h(a_n) - sum_{j = a_n}^{a_n + k_n - 1} h(j) ], a_n = k_1 + .. + k_{n-1}.

    The expected divergence in nats of random-order sampling with these sizes from that with one token a step
    (arXiv:2511.04647). curve: h(0) .. h(L - 1); sizes: adding up to L.
    """
    counts = np.array([size for size in sizes if size])
    return float(counts @ curve[counts.cumsum() - counts] - curve.sum())


def best_sizes(curve: Values, steps: int) -> tuple[int, ...]:
    """The sizes k_1 .. k_T >= 1 that make `excess` least.

    C_n(b) = min_a C_{n-1}(a) + (b - a) h(a), C_0 = 0 at b = 0. Where h never rises each step is the lower envelope of
    the lines b -> C(a) - a h(a) + b h(a), whose slopes come in order: O(L) a step, O(T L) in all.
    curve: h(0) .. h(L - 1), never rising. steps: T, from 1 to L.
    """
    slopes = curve.tolist()
    reached = [b * slopes[0] for b in range(len(slopes) + 1)]
    origins = []
    for first in range(1, steps):
        reached, origin = _one_more(reached, slopes, first)
        origins.append(origin)
    sizes, end = [], len(slopes)
    for origin in reversed(origins):
        sizes.append(end - origin[end])
        end = origin[end]
    return (end, *reversed(sizes))


def _one_more(reached: list[float], slopes: list[float], first: int) -> tuple[list[float], list[int]]:
    """C_n from C_{n-1}, and where its last steps begin. first: the fewest tokens that n - 1 steps reach."""
    offsets = [c - a * h for a, (c, h) in enumerate(zip(reached, slopes, strict=False))]
    found = [np.inf] * len(reached)
    origin = [0] * len(reached)
    lines: list[int] = []
    lowest = 0
    for b in range(first + 1, len(reached)):
        _add(lines, b - 1, slopes, offsets)
        lowest = min(lowest, len(lines) - 1)
        value = _at(lines[lowest], b, slopes, offsets)
        while lowest + 1 < len(lines) and (after := _at(lines[lowest + 1], b, slopes, offsets)) <= value:
            lowest, value = lowest + 1, after
        found[b], origin[b] = value, lines[lowest]
    return found, origin


def _add(lines: list[int], new: int, slopes: list[float], offsets: list[float]) -> None:
    """Put a line whose slope is not above the others' onto their lower envelope."""
    if lines and slopes[lines[-1]] == slopes[new]:
        if offsets[lines[-1]] <= offsets[new]:
            return
        lines.pop()
    while len(lines) > 1 and _is_above(lines[-2], lines[-1], new, slopes, offsets):
        lines.pop()
    lines.append(new)


def _is_above(a: int, b: int, c: int, slopes: list[float], offsets: list[float]) -> bool:
    """Whether b is nowhere the lowest of three lines with falling slopes: c meets a before b does."""
    return (offsets[c] - offsets[a]) * (slopes[a] - slopes[b]) <= (offsets[b] - offsets[a]) * (slopes[a] - slopes[c])


def _at(line: int, b: int, slopes: list[float], offsets: list[float]) -> float:
    return offsets[line] + b * slopes[line]

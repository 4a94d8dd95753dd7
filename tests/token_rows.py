"""The law of one row of logits by its definition, in float64 and by sorting, and what a result must be."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastdiff.ops import TokenStats
from fastdiff.ops.philox import uniform_rows

SLACK = 2e-6  # of masses summed from weights in float32
TOLERANCE = {"log_prob": 4e-6, "max_prob": 2e-6, "margin": 2e-6, "entropy": 1e-5, "current_prob": 2e-6}
TOLERANCE |= {"drawn_log_prob": 1e-5, "drawn_entropy": 2e-5}


class Options(NamedTuple):
    """What is asked of every row; numbers are each sample's or all samples'."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    exclude: tuple[int, ...] = ()


def plain_law(z: np.ndarray) -> np.ndarray:
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def drawn_law(z: np.ndarray, options: Options, top_p: float | None) -> np.ndarray:
    if options.temperature == 0:
        return (np.arange(len(z)) == z.argmax()).astype(float)
    q = plain_law((z - z.max()) / options.temperature)
    if options.top_k is not None:
        q = np.where(z >= np.sort(z)[::-1][min(options.top_k, len(z)) - 1], q, 0)
    if top_p is not None and top_p < 1:
        order = np.argsort(-z, kind="stable")
        before = np.concatenate([[0], np.cumsum(q[order])[:-1]]) / q.sum()
        q[order[before >= top_p]] = 0
    return q / q.sum()


def entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def assert_row(z: np.ndarray, options: Options, current: int, u: float, found: dict[str, float]) -> None:
    """z: float64 [V], with what the row excludes at -inf. u: the row's random number."""
    p, sample = plain_law(z), int(found["sample"])
    assert found["argmax"] == z.argmax()
    known = p[current] if 0 <= current < len(z) else 0.0
    second = np.sort(p)[-2] if len(p) > 1 else 0.0
    right = {"max_prob": p.max(), "margin": p.max() - second, "entropy": entropy(p), "current_prob": known}
    assert p[sample] > 0
    right["log_prob"] = math.log(p[sample])
    laws = [drawn_law(z, options, top_p) for top_p in _nearby(options.top_p)]
    q = laws[0]
    assert any(_draws(law, sample, u) for law in laws), (sample, u)
    if all(np.array_equal(law > 0, q > 0) for law in laws):  # no nucleus ends within rounding of its bound
        right |= {"drawn_log_prob": math.log(q[sample]) if q[sample] else math.nan, "drawn_entropy": entropy(q)}
    for name, value in right.items():
        scale = max(1.0, abs(value)) if name.endswith(("log_prob", "entropy")) else 1.0
        assert abs(found[name] - value) <= TOLERANCE[name] * scale, (name, found[name], value)


def _nearby(top_p: float | None) -> list[float | None]:
    return [None] if top_p is None else [top_p, top_p - SLACK, top_p + SLACK]


def _draws(q: np.ndarray, sample: int, u: float) -> bool:
    """Whether u falls to the sample, within rounding."""
    sums = np.cumsum(q)
    return q[sample] > 0 and sums[sample] - q[sample] - SLACK <= u <= sums[sample] + SLACK


def assert_right(
    stats: TokenStats,
    z: Tensor,  # [B, ..., V] final logits
    options: Options,
    current: Tensor | None = None,
    seeds: Tensor | None = None,
    index: Tensor | None = None,
    positions: Tensor | None = None,
) -> None:
    """Every row of a result, with the random numbers that it must have been drawn by."""
    rows = z.shape[:-1]
    z = z.double().clone()
    z[..., list(options.exclude)] = -math.inf
    if positions is None:
        positions = torch.arange(rows[1:].numel()).view(1, *rows[1:]).expand(rows)
    u = torch.zeros(rows) if seeds is None else uniform_rows(seeds, index, positions)
    columns = {name: values.flatten().tolist() for name, values in stats._asdict().items() if values is not None}
    now = [-1] * rows.numel() if current is None else current.flatten().tolist()
    columns.setdefault("current_prob", [0.0] * rows.numel())
    for r, (row, number) in enumerate(zip(z.flatten(0, -2).numpy(), u.flatten().tolist(), strict=True)):
        assert_row(row, options, now[r], number, {name: values[r] for name, values in columns.items()})

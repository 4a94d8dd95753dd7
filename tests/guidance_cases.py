"""Random outputs to guide, and points to do it at."""

from __future__ import annotations

import math

import torch

from fastdiff.guidance import Combiner, Guidance, Point

SHAPES = [(3, 16), (2, 12, 8), (3, 4, 8, 8), (2, 4, 3, 4, 6)]
"""Vectors, tokens, images, video."""
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction", "score")


def point(prediction: str = "epsilon", alpha: float = 0.8, sigma: float = 0.6, i: int = 3, n: int = 10) -> Point:
    return Point(i, n, 0.5, alpha, sigma, prediction, after=(0.5 * (1 + alpha), 0.5 * sigma))


def random_point(prediction: str) -> Point:
    angle = 0.2 + 1.1 * torch.rand(()).item()
    return point(prediction, math.cos(angle), math.sin(angle))


def random_outputs(shape: tuple[int, ...], count: int = 2, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """x and outputs that have much in common, as those of a real model do."""
    x, common = torch.randn(2, *shape, dtype=torch.float64)
    return [t.to(dtype) for t in (x, *(common + 0.5 * torch.randn(shape, dtype=torch.float64) for _ in range(count)))]


def guided(guidance: Guidance, at: Point, x: torch.Tensor, *outputs: torch.Tensor) -> torch.Tensor:
    """The result of one evaluation."""
    return Combiner(guidance)(at, x, outputs)


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """<a, b> over each sample, in a shape that multiplies samples."""
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))


def length(a: torch.Tensor) -> torch.Tensor:
    """|a| over each sample."""
    return inner(a, a).sqrt()


def to_x0(at: Point, x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    p_x, p_m = at.to_x0
    return p_x * x + p_m * m


def from_x0(at: Point, x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    p_x, p_m = at.to_x0
    return (d - p_x * x) / p_m

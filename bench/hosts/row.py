"""What is measured of a host, and the problems that all hosts share."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor

from ..mixtures import Mean, Shape, posterior_mean

EVALUATIONS = (4, 6, 8, 10)
# Five modes that are told apart late, and twenty in more dimensions: a tractable stand-in for data.
SHAPES = (Shape(16, 5, 0.1), Shape(64, 20, 0.2, decay=0.5))
SAMPLES = 64


@dataclass(frozen=True)
class Row:
    """One line of the table of hosts.

    host, version: the library's, as installed. use: which of its loops, and on what. evaluations: of the network for
    each sample, the same for both. own, ours: errors as `error` gives them. own_name, our_name: the sampler; the own
    one is the library's default, and where it offers several, there is a row for each that a user would take. parity:
    the largest difference over the data's spread of the two at the library's settings, None where it was not measured.
    default: whether this is the library's own default number of evaluations.
    """

    host: str
    version: str
    use: str
    evaluations: int
    own_name: str
    own: float
    our_name: str
    ours: float
    parity: float | None = None
    default: bool = False


def version(package: str) -> str:
    """The installed version."""
    return metadata.version(package)


def mean_of(shape: Shape, spread: float = 1.0, seed: int = 200) -> Mean:
    """E[x0 | alpha x0 + sigma eps = x] of x [B, size], alpha and sigma numbers: exact, in float64."""
    return posterior_mean(shape, spread, seed)


def error(x: Tensor, converged: Tensor) -> float:
    """The median over samples of the root mean square distance from the converged ones, over these' own size."""
    distance = (x - converged).double().flatten(1).square().mean(1).sqrt()
    return float(distance.median() / converged.double().square().mean().sqrt())


def parity(x: Tensor, y: Tensor) -> float:
    """The largest difference over the size of y."""
    return float((x - y).double().abs().max() / y.double().square().mean().sqrt())


def start(shape: Shape, seed: int = 0) -> Tensor:
    """Unit Gaussian noise [SAMPLES, size], float64."""
    return torch.randn(SAMPLES, shape.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

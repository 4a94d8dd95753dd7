"""flow_matching's ODESolver and fastdiff's: velocities of exact mixtures on the linear path."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastdiff.hosts import flow_matching as ours

from ..mixtures import Mean, Shape
from .row import EVALUATIONS, SHAPES, Row, error, mean_of, parity, start, version

PACKAGE = "flow_matching"
ORDERED = {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}  # torchdiffeq's fixed steps, and their evaluations
NOTEBOOKS = 40  # of the library's notebooks: the midpoint rule with a step size of 0.05
Velocity = Callable[[Tensor, Tensor], Tensor]


def velocity(mean: Mean) -> Velocity:
    """(t, x) -> E[x1 - x0 | x] from noise at t = 0 to data at t = 1."""

    def at(t: Tensor, x: Tensor) -> Tensor:
        alpha, sigma = t, 1 - t
        data = mean(x, alpha, sigma)
        return data - ((x - alpha * data) / sigma if sigma > 0 else torch.zeros_like(x))

    return at


def converged(field: Velocity, noise: Tensor) -> Tensor:
    """The solution to nine digits."""
    from torchdiffeq import odeint

    ends = torch.tensor([0.0, 1 - 1e-9], dtype=noise.dtype)
    return odeint(field, noise, ends, method="dopri8", rtol=1e-9, atol=1e-10)[-1]


def problems() -> Iterator[tuple[Shape, Velocity, Tensor, Tensor]]:
    """Each shape with its velocity, a start and the solution from there."""
    for shape in SHAPES:
        field, noise = velocity(mean_of(shape)), start(shape)
        yield shape, field, noise, converged(field, noise)


def rows() -> Iterator[Row]:
    """At each number of evaluations the library's fixed steps beside the default, and parity where both have them."""
    from flow_matching.solver import ODESolver

    unit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for shape, field, noise, exact in problems():
        solvers = [make(lambda x, t, field=field: field(t, x)) for make in (ODESolver, ours.ODESolver)]
        for count in (*EVALUATIONS, NOTEBOOKS):
            default = error(solvers[1].sample(noise, 1 / count, time_grid=unit), exact)
            for method, calls in ORDERED.items():
                if count % calls:
                    continue
                drawn = [s.sample(noise, calls / count, method=method, time_grid=unit) for s in solvers]
                same = parity(drawn[1], drawn[0])
                yield Row(
                    PACKAGE, version(PACKAGE), f"ODESolver, {shape.name}", count, method, error(drawn[0], exact),
                    "default", default,
                    parity=same, default=(count, method) == (NOTEBOOKS, "midpoint"),
                )  # fmt: skip

"""deepinv's and azula's samplers on the same problem, network and number of passes, where they are installed.

The strengths that their users have to choose are tried; the tables have the one of the best PSNR, by the truth.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from .methods import Draw
from .problem import Problem


def installed(problem: Problem) -> dict[str, dict[str, Draw]]:
    """For each method, what is tried of it: {method: {strength: draw}}."""
    found: dict[str, dict[str, Draw]] = {}
    if importlib.util.find_spec("azula"):
        from .peer_azula import methods

        found |= methods(problem)
    if importlib.util.find_spec("deepinv") and len(problem.net.shape) == 3:
        from .peer_deepinv import methods

        found |= methods(problem)
    return found


def real_measurements(problem: Problem, members: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A and y [M N, ...] for so many members, in real numbers: both packages compute with those."""

    def real(y: Tensor) -> Tensor:
        return torch.view_as_real(y).flatten(1) if y.is_complex() else y

    matrix = problem.A
    forward = (lambda x: x.flatten(1) @ matrix.T) if isinstance(matrix, Tensor) else matrix
    return lambda x: real(forward(x)), real(problem.y.repeat(members, *[1] * (problem.y.ndim - 1)))

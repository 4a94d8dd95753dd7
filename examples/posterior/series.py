"""Gaps in the days of two stock indices, filled with members.

python -m examples.posterior.series [--quick] [--out FOLDER] [--peers]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastdiff import demo

from .problem import Problem, measured
from .show import run

SPREAD = 1.0


def gaps(net: demo.DemoNetwork, truth: Tensor, noise: float = 0.02) -> Problem:
    """y [B, K]: all but two gaps of weeks in both channels, and single days without one of them."""
    seen = torch.rand(truth.shape[1:], generator=torch.Generator().manual_seed(2)) < 0.8
    seen[:, 60:84] = False
    seen[:, 150:182] = False

    def among_zeros(v: Tensor) -> Tensor:
        whole = v.new_zeros(len(v), *seen.shape)
        whole[:, seen] = v
        return whole

    y = measured(truth[:, seen], noise)
    known = among_zeros(y).numpy()
    start = torch.tensor(np.stack([[between(c, s) for c, s in zip(v, seen, strict=True)] for v in known])).float()
    low, high = float(truth.min()), float(truth.max())
    return Problem(
        "gaps in a series", net, truth, y, lambda x: x[:, seen], noise, start, "linear interpolation",
        among_zeros, seen.float(), low, high, where=~seen,
    )  # fmt: skip


def between(values: np.ndarray, seen: Tensor) -> np.ndarray:
    """Values [L] with those that were not seen on lines between their neighbours."""
    at, days = np.flatnonzero(seen.numpy()), np.arange(len(values))
    return np.interp(days, at, values[at])


def main(argv: Sequence[str] | None = None) -> None:
    run(argv, __doc__, demo.network("series"), [gaps], SPREAD)


if __name__ == "__main__":
    main()

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
    """Two gaps of weeks in both channels, and single days without one of them.

    The data are exact; a small noise says that they are nearly so.
    """
    seen = (torch.rand(truth.shape[1:], generator=torch.Generator().manual_seed(2)) < 0.8).float()
    seen[:, 60:84] = 0.0
    seen[:, 150:182] = 0.0
    y = measured(truth * seen, noise) * seen
    start = torch.tensor(np.stack([[between(c, s) for c, s in zip(v, seen, strict=True)] for v in y.numpy()])).float()
    low, high = float(truth.min()), float(truth.max())
    return Problem(
        "gaps in a series", net, truth, y, lambda x: x * seen, noise, start, "linear interpolation",
        lambda v: v * seen, seen, low, high, where=seen == 0,
    )  # fmt: skip


def between(values: np.ndarray, seen: Tensor) -> np.ndarray:
    """Values [L] with those that were not seen on lines between their neighbours."""
    at, days = np.flatnonzero(seen.numpy()), np.arange(len(values))
    return np.interp(days, at, values[at])


def main(argv: Sequence[str] | None = None) -> None:
    net = demo.network("series")
    run(argv, __doc__, [gaps(net, net.examples[::2])], SPREAD)


if __name__ == "__main__":
    main()

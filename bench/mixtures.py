"""Gaussian mixtures with their exact posterior mean, from 2 to 256 dimensions, on every kind of schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import fastdiff as fd

from .problems import Problem, digits_mean

# (schedule, prediction, the data's spread, the grid on which the converged solution is found). Of an exact model every
# prediction says the same, so each schedule has one.
SETTINGS: dict[str, tuple[fd.Schedule, str, float, str]] = {
    "flow": (fd.Schedule.flow(), "flow_prediction", 1.0, "quadratic"),
    "flow, shift 3": (fd.Schedule.flow(shift=3.0), "flow_prediction", 1.0, "quadratic"),
    "vp": (fd.Schedule.scaled_linear(), "epsilon", 1.0, "quadratic"),
    "cosine": (fd.Schedule.cosine(), "v_prediction", 1.0, "quadratic"),
    "zero SNR": (fd.Schedule.scaled_linear().zero_terminal_snr(), "v_prediction", 1.0, "quadratic"),
    "edm": (fd.Schedule.edm(), "sample", 0.5, "logsnr"),
}


@dataclass(frozen=True)
class Shape:
    """modes in `size` dimensions; width: the standard deviation of one over the spread of all; decay: of variances."""

    size: int
    modes: int
    width: float
    decay: float = 0.0
    ring: bool = False

    @property
    def name(self) -> str:
        return f"{'ring' if self.ring else f'{self.modes} modes'} in {self.size}, width {self.width:g}"


TUNED_ON = (
    Shape(2, 8, 0.1, ring=True),
    Shape(2, 5, 0.2),
    Shape(8, 6, 0.1),
    Shape(8, 4, 0.5),
    Shape(32, 10, 0.3, decay=1.0),
    Shape(64, 20, 0.05),
    Shape(64, 20, 0.2, decay=0.5),
    Shape(256, 10, 0.4, decay=1.0),
    Shape(64, 10, 0.6, decay=1.5),
    Shape(196, 20, 0.5, decay=2.0),
    Shape(128, 30, 0.5, decay=0.5),
    Shape(256, 1, 0.95, decay=2.0),
    Shape(24, 3, 0.45, decay=0.5),
    Shape(12, 3, 0.35, decay=0.5),
)
JUDGED_ON = (
    Shape(2, 12, 0.06, ring=True),
    Shape(16, 5, 0.08),
    Shape(20, 3, 0.4, decay=0.5),
    Shape(48, 15, 0.15, decay=1.0),
    Shape(100, 30, 0.07),
    Shape(400, 16, 0.25, decay=1.5),
)
FIRST_JUDGED_SEED, CLASSES = 100, 3
Mean = Callable[[Tensor, Tensor, Tensor], Tensor]  # x0 predicted from x [B, size], alpha and sigma, one for all


@dataclass(frozen=True)
class Exact(Problem):
    """A problem with its posterior mean, in float64."""

    mean: Mean | None = None


def tuned_on(kind: str, guidance: float | None = None) -> Iterator[Exact]:
    """What the default's numbers were found on, on one kind of schedule: mixtures, and blurred 8 x 8 digits."""
    shapes = TUNED_ON if guidance is None or kind == "flow" else TUNED_ON[::2]
    yield from mixtures(kind, [s for s in shapes if guidance is None or s.modes >= 6], 0, guidance)
    for width in (0.15, 0.4):
        yield exact(kind, f"digits, width {width:g}", digits_mean(width, guidance), 64)


def judged_on() -> Iterator[Exact]:
    """Mixtures of other dimensions, widths and seeds: all on the plain schedules, a few on their kin."""
    for kind in SETTINGS:
        every = 1 if kind in ("flow", "vp", "edm") else 3
        yield from list(mixtures(kind, JUDGED_ON, FIRST_JUDGED_SEED))[every - 1 :: every]


def mixtures(kind: str, shapes: Sequence[Shape], first_seed: int, guidance: float | None = None) -> Iterator[Exact]:
    """The mixtures on one kind of schedule."""
    for seed, shape in enumerate(shapes, start=first_seed):
        yield exact(kind, shape.name, posterior_mean(shape, SETTINGS[kind][2], seed, guidance), shape.size)


def exact(kind: str, name: str, mean: Mean, size: int) -> Exact:
    """The problem of that posterior mean on one kind of schedule."""
    schedule, prediction, _, converged = SETTINGS[kind]
    parts = (schedule, prediction, (size,), torch.float64, converged)
    return Exact(f"{kind}: {name}", predictor(mean, schedule, prediction), *parts, mean=mean)


def posterior_mean(shape: Shape, spread: float, seed: int, guidance: float | None = None) -> Mean:
    """E[x0 | alpha x0 + sigma eps = x] of x [B, size] at one time.

    The modes' variances fall along the axes as a power law, in an order of each mode's own. guidance: every third mode
    is of one class; away from the mean of all, towards that of the sample's class, its place in the batch mod 3.
    """
    normal = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    if shape.ring:
        angle = torch.arange(shape.modes, dtype=torch.float64) * (2 * torch.pi / shape.modes)
        means = spread * 2**0.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
    else:
        means = torch.randn(shape.modes, shape.size, **normal)
        means = spread * (1 - shape.width**2) ** 0.5 * means / means.square().mean().sqrt()
    law = torch.arange(1, shape.size + 1, dtype=torch.float64) ** -shape.decay
    orders = torch.stack([torch.randperm(shape.size, generator=normal["generator"]) for _ in range(shape.modes)])
    variances = ((spread * shape.width) ** 2 * law / law.mean())[orders]
    log_weights = torch.log_softmax(0.5 * torch.randn(shape.modes, **normal), dim=0)

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        total = alpha**2 * variances + sigma**2  # [modes, size]
        # Sums over the axes of (x - alpha mean)^2 / total, and of the posterior means by mode, as products of matrices.
        scaled = alpha * means / total
        distance = x.square() @ total.reciprocal().T - 2 * x @ scaled.T + alpha * (scaled * means).sum(1)
        logits = log_weights - 0.5 * (distance + total.log().sum(1))
        share = torch.softmax(logits, dim=1)
        if guidance is not None:
            own = torch.arange(shape.modes) % CLASSES == torch.arange(len(x))[:, None] % CLASSES
            share = share + guidance * (torch.softmax(logits.masked_fill(~own, -torch.inf), dim=1) - share)
        gain = alpha * variances / total
        return share @ (means - alpha * gain * means) + x * (share @ gain)

    return mean


def predictor(mean: Mean, schedule: fd.Schedule, prediction: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The model of that prediction with this posterior mean; all samples of a call are at one time."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (torch.as_tensor(v) for v in schedule.at(float(t[0]))[1:])
        data = mean(x, alpha, sigma)
        if prediction == "sample":
            return data
        if prediction == "flow_prediction":
            # eps - x0 with eps = (x - alpha x0) / sigma; at sigma = 0 the mean of the noise is 0.
            return ((x - alpha * data) / sigma if sigma > 0 else 0.0 * x) - data
        noise = (x - alpha * data) / sigma
        return noise if prediction == "epsilon" else alpha * noise - sigma * data

    return model

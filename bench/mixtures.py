"""Gaussian mixtures with their exact posterior mean, from 2 to 256 dimensions, on every kind of schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import fastdiff as fd

from .problems import Problem

# (schedule, prediction, the data's spread, the grid on which the converged solution is found). Of an exact model every
# prediction says the same, so each schedule has one.
SETTINGS: dict[str, tuple[fd.Schedule, str, float, str]] = {
    "flow": (fd.Schedule.flow(), "flow_prediction", 1.0, "quadratic"),
    "vp": (fd.Schedule.scaled_linear(), "epsilon", 1.0, "quadratic"),
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


SHAPES = (
    Shape(2, 8, 0.1, ring=True),
    Shape(2, 5, 0.2),
    Shape(8, 6, 0.1),
    Shape(8, 4, 0.5),
    Shape(32, 10, 0.3, decay=1.0),
    Shape(64, 20, 0.05),
    Shape(64, 20, 0.2, decay=0.5),
    Shape(256, 10, 0.4, decay=1.0),
)


def mixtures(shapes: tuple[Shape, ...] = SHAPES) -> Iterator[Problem]:
    """Every mixture on every kind of schedule."""
    for kind, (schedule, prediction, spread, converged) in SETTINGS.items():
        for seed, shape in enumerate(shapes):
            model = predictor(posterior_mean(shape, spread, seed), schedule, prediction)
            parts = (schedule, prediction, (shape.size,), torch.float64, converged)
            yield Problem(f"{kind}: {shape.name}", model, *parts)


def posterior_mean(shape: Shape, spread: float, seed: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x0 | alpha x0 + sigma eps = x] of x [B, size], alpha [B, 1, 1] and sigma [B, 1, 1].

    The modes' variances fall along the axes as a power law, in an order of each mode's own.
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
        total = alpha**2 * variances + sigma**2  # [B, modes, size]
        offset = x[:, None] - alpha * means
        log_likelihood = -0.5 * (offset**2 / total + total.log()).sum(-1)
        share = torch.softmax(log_weights + log_likelihood, dim=1)
        return (share[..., None] * (means + alpha * variances / total * offset)).sum(1)

    return mean


def predictor(
    mean: Callable[[Tensor, Tensor, Tensor], Tensor], schedule: fd.Schedule, prediction: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """The model of that prediction with this posterior mean."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        point = schedule.at(t.double().numpy())
        alpha, sigma = (torch.as_tensor(v).reshape(-1, 1) for v in (point.alpha, point.sigma))
        data = mean(x, alpha[..., None], sigma[..., None])
        if prediction == "sample":
            return data
        if prediction == "flow_prediction":
            # eps - x0 with eps = (x - alpha x0) / sigma; at sigma = 0 the mean of the noise is 0.
            noise = torch.where(sigma > 0, (x - alpha * data) / sigma.clamp(min=1e-300), 0.0)
            return noise - data
        noise = (x - alpha * data) / sigma
        return noise if prediction == "epsilon" else alpha * noise - sigma * data

    return model

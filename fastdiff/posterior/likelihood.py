"""How measurements scatter about A x: log p(y | A x), its slope, and how sharp it is.

y and the prediction A x are real tensors [B, ...] of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Likelihood:
    """Base: log_prob in torch is enough, slope and information follow by autograd. Its elements must be independent.

    The smoothed ones are for A x0 that scatters about the prediction with a variance [B, ...], or a number. By default
    the likelihood is taken as exp of a parabola there, which is exact for Gaussian noise.
    """

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        """[B] log p(y | prediction), summed over each sample's elements."""
        raise NotImplementedError

    def slope(self, prediction: Tensor, y: Tensor) -> Tensor:
        """[B, ...] d log p / d prediction."""
        with torch.enable_grad():
            at = prediction.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(at, y).sum(), at)[0]

    def information(self, prediction: Tensor, y: Tensor) -> Tensor:
        """[B, ...] - d^2 log p / d prediction^2 of each element, at least 0: 1 / noise^2 of Gaussian noise."""
        with torch.enable_grad():
            at = prediction.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_prob(at, y).sum(), at, create_graph=True)
            if not slope.requires_grad:
                return torch.zeros_like(prediction)
            return -torch.autograd.grad(slope.sum(), at)[0].clamp(max=0.0)

    def smoothed_slope(self, prediction: Tensor, y: Tensor, variance: Tensor | float) -> Tensor:
        """[B, ...] g / (1 + v h), with slope g and information h."""
        return self.slope(prediction, y) / (1 + variance * self.information(prediction, y))

    def smoothed_log_prob(self, prediction: Tensor, y: Tensor, variance: Tensor | float) -> Tensor:
        """[B] log p + the sum of v g^2 / (2 (1 + v h)) - log(1 + v h) / 2."""
        spread = 1 + variance * self.information(prediction, y)
        gained = 0.5 * (variance * self.slope(prediction, y).square() / spread - spread.log())
        return self.log_prob(prediction, y) + gained.flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class ByFunction(Likelihood):
    """A function (prediction, y) -> log p [B], differentiable in the prediction."""

    function: Callable[[Tensor, Tensor], Tensor]

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        return self.function(prediction, y)


@dataclass(frozen=True, eq=False)
class Gaussian(Likelihood):
    """y = A x + n, n ~ N(0, std^2), independent; of complex measurements both parts have this std.

    std: a number, or a tensor that goes with y [B, ...].
    """

    std: float | Tensor

    def variance(self, like: Tensor) -> Tensor:
        """[B, ...] std^2."""
        if isinstance(self.std, Tensor):
            return self.std.to(like.device, like.dtype).square().expand_as(like)
        return like.new_full((), self.std**2).expand_as(like)

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        variance = self.variance(y)
        each = (y - prediction).square() / variance + (2 * math.pi * variance).log()
        return -0.5 * each.flatten(1).sum(1)

    def slope(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (y - prediction) / self.variance(y)

    def information(self, prediction: Tensor, y: Tensor) -> Tensor:
        return 1 / self.variance(y)


@dataclass(frozen=True, eq=False)
class Poisson(Likelihood):
    """gain y ~ Poisson(gain A x): y are counts over the gain. deepinv's `PoissonNoise` has the inverse as its gain."""

    gain: float = 1.0

    def _rate(self, prediction: Tensor) -> Tensor:
        return (self.gain * prediction).clamp(min=1e-3)  # a positive rate even where D is not

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        rate, counts = self._rate(prediction), self.gain * y
        return (counts * rate.log() - rate - torch.lgamma(counts + 1)).flatten(1).sum(1)

    def slope(self, prediction: Tensor, y: Tensor) -> Tensor:
        return self.gain * (self.gain * y / self._rate(prediction) - 1)

    def information(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Fisher's information gain^2 / rate."""
        return self.gain**2 / self._rate(prediction)


@dataclass(frozen=True, eq=False)
class Laplace(Likelihood):
    """y = A x + n, n of density exp(-|n| / scale) / (2 scale): outliers weigh less than under Gaussian noise."""

    scale: float

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        return -((y - prediction).abs() / self.scale + math.log(2 * self.scale)).flatten(1).sum(1)

    def slope(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (y - prediction).sign() / self.scale

    def information(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Fisher's information 1 / scale^2."""
        return torch.full_like(prediction, self.scale**-2)

    def smoothed_slope(self, prediction: Tensor, y: Tensor, variance: Tensor | float) -> Tensor:
        """Exact: (P(n > 0) - P(n < 0)) / scale for the noise n given y. The parabola has no slope far from its top."""
        above, below = self._sides(y - prediction, variance)
        return (torch.sigmoid(above - below) * 2 - 1) / self.scale

    def smoothed_log_prob(self, prediction: Tensor, y: Tensor, variance: Tensor | float) -> Tensor:
        above, below = self._sides(y - prediction, variance)
        constant = torch.as_tensor(variance, dtype=y.dtype, device=y.device) / (2 * self.scale**2)
        return (torch.logaddexp(above, below) + constant - math.log(2 * self.scale)).flatten(1).sum(1)

    def _sides(self, residual: Tensor, variance: Tensor | float) -> tuple[Tensor, Tensor]:
        """log of the integrals over n > 0 and n < 0 of exp(-|n| / scale) N(residual - n; 0, v), up to a constant."""
        tiny = torch.finfo(residual.dtype).tiny
        spread = torch.as_tensor(variance, dtype=residual.dtype, device=residual.device).clamp(min=tiny).sqrt()
        share, shift = residual / spread, spread / self.scale
        side = residual / self.scale
        return torch.special.log_ndtr(share - shift) - side, torch.special.log_ndtr(-share - shift) + side

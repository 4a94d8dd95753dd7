"""A deepinv denoiser as a model in another range of pixels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class InRange:
    """model(x, sigma) -> E[x0 | x0 + sigma eps = x] for data in [low, high], of a denoiser of data in [0, 1]."""

    def __init__(self, denoiser: Callable[..., Tensor], low: float, high: float) -> None:
        self._denoiser, self._low, self._length = denoiser, low, high - low

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        """x [B, ...], sigma [B], in the data's range."""
        inside = self._denoiser((x - self._low) / self._length, sigma / self._length, **kwargs)
        return inside * self._length + self._low

"""deepinv's protocol: physics and noise models with its names, for where it is not installed.

What is a linear Physics, and which noise it has, is read from these names alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class NoiseModel(torch.nn.Module):
    pass


class GaussianNoise(NoiseModel):
    def __init__(self, sigma: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.as_tensor(sigma).reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma.view(-1, *[1] * (x.ndim - 1)) * torch.randn_like(x)


class RicianNoise(NoiseModel):
    """sqrt((x + n)^2 + m^2): its sigma is no standard deviation of y."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.as_tensor(sigma))


class PoissonNoise(NoiseModel):
    """y = gain Poisson(x / gain)."""

    def __init__(self, gain: float | Tensor, normalize: bool = True) -> None:
        super().__init__()
        self.register_buffer("gain", torch.as_tensor(gain).reshape(-1))
        self.register_buffer("normalize", torch.tensor(normalize))


class LaplaceNoise(NoiseModel):
    def __init__(self, b: float) -> None:
        super().__init__()
        self.register_buffer("b", torch.as_tensor(b))


class Physics(torch.nn.Module):
    """y = A(x) + noise, A of any kind. Its A_adjoint and A_dagger are where deepinv's solvers start, nothing more."""

    def __init__(self, A: Callable[[Tensor], Tensor], noise_model: NoiseModel) -> None:
        super().__init__()
        self._of, self.noise_model = A, noise_model

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return self._of(x)

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.func.vjp(self.A, x)[1](v)[0]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.ones_like(y)

    A_dagger = A_adjoint


class Inpainting(torch.nn.Module):
    """A linear one. prox_calls: how often its minimiser was asked."""

    def __init__(self, img_size: tuple[int, ...], mask: Tensor, noise_model: NoiseModel) -> None:
        super().__init__()
        self.mask, self.noise_model, self.prox_calls = mask, noise_model, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.noise_model(self.A(x))

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return self.mask * x

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        return self.mask * y

    A_dagger = A_adjoint

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.mask * v

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        return self.mask * x

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float, **kwargs: object) -> Tensor:
        """The x that minimises gamma / 2 |A x - y|^2 + |x - z|^2 / 2."""
        self.prox_calls += 1
        return (z + gamma * self.mask * y) / (1 + gamma * self.mask)

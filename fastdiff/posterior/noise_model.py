"""The noise that a deepinv Physics says of itself, its `noise_model`, as an observation's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .likelihood import Laplace, Likelihood, Poisson


def noise_of(physics: Any) -> float | Tensor | Likelihood | None:
    """Its standard deviation, or its likelihood; None where nothing is said.

    GaussianNoise has `sigma`. PoissonNoise, y = gain Poisson(x / gain), has the inverse of our gain. LaplaceNoise has
    `b`, our scale. Raises ValueError naming noise that is none of these: a `sigma` of it means something else.
    """
    model = getattr(physics, "noise_model", None)
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if model is None or "ZeroNoise" in kinds:
        return None
    if "GaussianNoise" in kinds:
        return model.sigma
    if "PoissonNoise" in kinds:
        if not bool(getattr(model, "normalize", True)):
            raise ValueError("noise: PoissonNoise with normalize=False gives counts; multiply them by its gain")
        return Poisson(1 / _one(model.gain, "gain"))
    if "LaplaceNoise" in kinds:
        return Laplace(_one(model.b, "b"))
    sigma = getattr(model, "sigma", None)
    if "NoiseModel" not in kinds and isinstance(sigma, (int, float, Tensor)):  # of an object that is like a Physics
        return sigma
    raise ValueError(
        f"noise: {type(model).__name__} has no likelihood here; give noise=, a function (A x0, y) -> log p"
    )


def _one(value: float | Tensor, name: str) -> float:
    """The number that holds for the whole batch."""
    if isinstance(value, Tensor):
        if value.numel() == 0 or (value != value.flatten()[0]).any():
            raise ValueError(f"noise: expected one {name} for the whole batch, got {value.tolist()}")
        value = float(value.flatten()[0])
    return float(value)

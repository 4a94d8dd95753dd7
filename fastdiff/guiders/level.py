"""Where a step of a diffusers pipeline lies: x = alpha x0 + sigma eps, where x is what the network is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler
from torch import Tensor, nn

FLOW = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler)


class Level(NamedTuple):
    """alpha, sigma, and what the network predicts, as for `fastdiff.plan`."""

    alpha: float
    sigma: float
    prediction: str

    @property
    def ratio(self) -> float:
        """sigma / alpha, infinite where alpha is 0."""
        return self.sigma / self.alpha if self.alpha else math.inf


def level_of(scheduler: Any, timestep: Tensor | float) -> Level:
    """The noise level at one of the scheduler's timesteps.

    diffusers' sigmas are sigma / alpha, and its networks are given x / sqrt(1 + sigma^2), so alpha^2 + sigma^2 = 1; on
    flow schedules alpha + sigma = 1. Schedulers without sigmas look the timestep up in `alphas_cumprod`.
    """
    time, sigmas = float(timestep), getattr(scheduler, "sigmas", None)
    flow = isinstance(scheduler, FLOW) or bool(getattr(scheduler.config, "use_flow_sigmas", False))
    prediction = "flow_prediction" if flow else getattr(scheduler.config, "prediction_type", "epsilon")
    prediction = "sample" if prediction == "original_sample" else prediction
    if sigmas is None:
        squared = float(scheduler.alphas_cumprod[int(time)])
        return Level(math.sqrt(squared), math.sqrt(1 - squared), prediction)
    times = torch.as_tensor(scheduler.timesteps).tolist()
    if time not in times:
        raise ValueError(f"timestep: expected one of the scheduler's {times}, got {time}")
    sigma = float(sigmas[times.index(time)])
    if flow:
        return Level(1 - sigma, sigma, prediction)
    alpha = 1 / math.hypot(1.0, sigma)
    return Level(alpha, sigma * alpha, prediction)


class Listener:
    """Keeps what a network is given as its sample, while it is one of the network's hooks."""

    def __init__(self) -> None:
        self.sample: Tensor | None = None

    @contextmanager
    def on(self, denoiser: nn.Module) -> Iterator[None]:
        """A hook of the network for the time being."""
        handle = denoiser.register_forward_pre_hook(self._hear, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _hear(self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        value = args[0] if args else options.get("hidden_states", options.get("sample"))
        self.sample = torch.stack(list(value)) if isinstance(value, list | tuple) else value

    def like(self, prediction: Tensor) -> Tensor:
        """The part that the prediction is of, which comes first in every dimension (masks and images follow it).

        Raises ValueError where the network was not called, or its sample has another layout.
        """
        if self.sample is None:
            raise ValueError("x: the guider has seen no call of the network between prepare_models and cleanup_models")
        if self.sample.numel() == prediction.numel():
            return self.sample.reshape(prediction.shape)
        fits = self.sample.ndim == prediction.ndim and all(
            n >= m for n, m in zip(self.sample.shape, prediction.shape, strict=True)
        )
        if not fits:
            shapes = f"{tuple(self.sample.shape)} and {tuple(prediction.shape)}"
            raise ValueError(f"x: expected the network's sample to begin with x as predicted, got shapes {shapes}")
        return self.sample[tuple(slice(n) for n in prediction.shape)]

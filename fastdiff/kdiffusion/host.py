"""The host module that a registered sampler is running for: its noise comes from there.

Hosts control noise through their own module. Stable Diffusion web UI replaces `k_diffusion.sampling.torch` by an object
whose randn_like follows each image's seed; ComfyUI's `default_noise_sampler` uses a generator with the run's seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

_HOST: ContextVar[ModuleType | None] = ContextVar("host", default=None)


@contextmanager
def standing_in_for(module: ModuleType) -> Iterator[None]:
    """Inside this context, noise comes from the module."""
    token = _HOST.set(module)
    try:
        yield
    finally:
        _HOST.reset(token)


def randn_like(x: Tensor) -> Tensor:
    """The host's torch.randn_like."""
    return _randn_like()(x)


def steers_randn_like() -> bool:
    """Whether the host has replaced torch.randn_like."""
    return _randn_like() is not torch.randn_like


def _randn_like() -> Callable[[Tensor], Tensor]:
    return getattr(getattr(_HOST.get(), "torch", torch), "randn_like", torch.randn_like)


def default_noise_sampler(x: Tensor, seed: int | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The host's noise sampler for calls without one; None if the host has none."""
    if steers_randn_like():
        return lambda sigma, sigma_next: randn_like(x)
    make = getattr(_HOST.get(), "default_noise_sampler", None)
    if make is None:
        return None
    return make(x, seed=seed) if "seed" in inspect.signature(make).parameters else make(x)

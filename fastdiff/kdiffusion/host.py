"""The host module that a registered sampler is running for: its noise comes from there.

Hosts control noise through their own module. Stable Diffusion web UI replaces `k_diffusion.sampling.torch` by an object
whose randn_like follows each image's seed; ComfyUI's `default_noise_sampler` uses a generator with the run's seed.
SDE samplers draw from its `BrownianTreeNoiseSampler` where the registration says so (`seed_compat`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

TREE = "BrownianTreeNoiseSampler"
_HOST: ContextVar[ModuleType | None] = ContextVar("host", default=None)
_TREE: ContextVar[str | None] = ContextVar("tree", default=None)  # where the host's tree is kept: "cpu" or "device"


@contextmanager
def standing_in_for(module: ModuleType, seed_compat: bool = False) -> Iterator[None]:
    """Inside this context, noise comes from the module; its Brownian tree's too with seed_compat."""
    with _within(_HOST, module), _within(_TREE, "cpu" if seed_compat else None):
        yield


@contextmanager
def tree_on_device() -> Iterator[None]:
    """Inside this context the host's Brownian tree, where one is drawn from, is kept on x's device."""
    with _within(_TREE, _TREE.get() and "device"):
        yield


@contextmanager
def _within(variable: ContextVar, value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


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


def brownian_tree(x: Tensor, sigmas: Tensor, seed: int | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The host's Brownian tree over its sigmas above 0; None unless its seeds must give its own pictures."""
    if _TREE.get() is None:
        return None
    make = getattr(_HOST.get(), TREE)
    options = {"cpu": _TREE.get() == "cpu"} if "cpu" in inspect.signature(make).parameters else {}
    return make(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, **options)


def skip_draws(x: Tensor, sigmas: Tensor, s_tmin: float, s_tmax: float) -> None:
    """Draw and drop a noise for each step before the first one within the window, if seeds must give the host's."""
    if _TREE.get() is None:
        return
    inside = ((sigmas[:-1] >= s_tmin) & (sigmas[:-1] <= s_tmax)).tolist()
    for _ in range(inside.index(True) if True in inside else 0):
        randn_like(x)

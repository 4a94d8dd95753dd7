"""Where noise comes from: the caller's noise_sampler, the host's, or a Brownian path per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import host
from .brownian import BrownianPath, BrownianTreeNoiseSampler, batch_seeds

NoiseSampler = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[float, float], Tensor]
Extra = dict[str, Any] | None

_NEXT_PATH = 0x9E3779B97F4A7C15 - 2**64  # an odd number of no pattern: consecutive seeds stay apart


def default_noise_sampler(x: Tensor, seed: int | None = None) -> NoiseSampler:
    """A function sampler(sigma, sigma_next) -> fresh unit noise like x, whatever the sigmas.

    seed: of a new generator on x's device, so equal seeds give equal sequences; torch's global generator if None.
    """
    if seed is None:
        return lambda sigma, sigma_next: torch.randn_like(x)
    generator = torch.Generator(x.device).manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def independent(x: Tensor, extra_args: Extra, noise_sampler: NoiseSampler | None, like: Tensor) -> Draw:
    """For solvers with independent noise at each step: like `brownian`, with the host's default noise sampler."""
    if noise_sampler is None:
        noise_sampler = host.default_noise_sampler(x, (extra_args or {}).get("seed"))
    return _draw(x, extra_args, noise_sampler, like)


def brownian(x: Tensor, extra_args: Extra, noise_sampler: NoiseSampler | None, sigmas: Tensor) -> Draw:
    """The given noise sampler, called with tensors like the sigmas; if None, Brownian paths over sigma.

    Their seeds are extra_args' "seed", or drawn from torch's generator. With `register(seed_compat=True)` the path is
    the host's own.
    """
    if noise_sampler is None:
        noise_sampler = host.brownian_tree(x, sigmas, (extra_args or {}).get("seed"))
    return _draw(x, extra_args, noise_sampler, sigmas)


def _draw(x: Tensor, extra_args: Extra, noise_sampler: NoiseSampler | None, like: Tensor) -> Draw:
    if noise_sampler is None:
        seed = (extra_args or {}).get("seed")
        if seed is None and host.steers_randn_like():
            first = host.randn_like(x).reshape(len(x), -1)[:, 0]
            seed = first.double().view(torch.int64)  # the bits of each image's own noise
        return _Paths(x, batch_seeds(seed, len(x)))
    if isinstance(noise_sampler, BrownianTreeNoiseSampler):
        return noise_sampler  # reads numbers: tensors on a device would make it wait
    return lambda *ends: noise_sampler(*(torch.tensor(s, dtype=like.dtype, device=like.device) for s in ends))


class _Paths:
    """Increments of a Brownian path over sigma; a new path wherever sigma changes direction.

    After a turn the same sigmas come again, and must not get the same noise.
    """

    def __init__(self, x: Tensor, seeds: Sequence[int] | Tensor) -> None:
        self.path, self.like = BrownianPath(x, seeds), x
        self.rising: bool | None = None

    def __call__(self, start: float, end: float) -> Tensor:
        if self.rising is not None and self.rising != (end > start):
            self.path = BrownianPath(self.like, self.path.seeds + _NEXT_PATH)
        self.rising = end > start
        return self.path.increment(start, end)

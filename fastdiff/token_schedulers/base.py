"""TokenScheduler: where the random numbers of a token scheduler's steps come from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..sampling.noise import seed_tensor
from ..sampling.token_draws import Draws, GeneratorDraws, SeededDraws


class TokenScheduler:
    """Before diffusers' class in the order of bases: configuration, add_noise and saving stay diffusers' own.

    seeds: None, or one integer a sample. With seeds a sample's tokens are the same in every batch, and a step draws
    nothing from its generator; set_timesteps begins anew.
    """

    seeds: Sequence[int] | Tensor | None = None
    config: Any
    num_inference_steps: int
    timesteps: Any
    _steps = 0  # since set_timesteps: a run of several blocks goes through its timesteps several times

    def _draws(self, generator: torch.Generator | None, model_output: Tensor) -> Draws:
        """The random numbers of the next step."""
        if self.seeds is None:
            return GeneratorDraws(generator, model_output.device)
        self.seeds = seed_tensor(self.seeds, len(model_output), model_output.device)
        self._steps += 1
        return SeededDraws(self.seeds, self._steps - 1)


def begins_anew(native: Callable) -> Callable:
    """diffusers' set_timesteps, whose signature pipelines inspect; the draws of the seeds begin anew."""

    @functools.wraps(native)
    def set_timesteps(self: TokenScheduler, *args: object, **kwargs: object) -> None:
        native(self, *args, **kwargs)
        self._steps = 0

    return set_timesteps


def at(table: Tensor, index: int | Tensor) -> Tensor:
    """The table's number at an index, from its end if it is negative. Indexing by a tensor would wait for it."""
    if not isinstance(index, Tensor):
        return table[index]
    return table.index_select(0, index.to(table.device).remainder(len(table)).view(1))[0]


def ranks(confidence: Tensor) -> Tensor:
    """[B, L] int64: 0 for the surest of each row, of equal ones the first."""
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)

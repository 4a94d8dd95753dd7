"""diffusers' token schedulers with the random numbers of fastdiff's, and laws of what a step draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from diffusers.schedulers import scheduling_amused
from token_laws import assert_drawn
from torch import Tensor

from fastdiff.sampling.token_draws import SeededDraws


@contextmanager
def same_draws(seeds: Tensor, step: int) -> Iterator[None]:
    """torch's random functions draw in their order what a step of fastdiff's with those seeds does."""
    draws = SeededDraws(seeds, step)

    def multinomial(p: Tensor, num_samples: int, generator: object = None) -> Tensor:
        """By inversion in float64, in rows of a sample."""
        assert num_samples == 1
        sums = p.double().view(len(seeds), -1, p.shape[-1]).cumsum(-1)
        u = draws.uniform(sums.shape[:2])[..., None]
        return (sums <= u * sums[..., -1:]).sum(-1).view(-1, 1)

    def randint(low: int, high: int, size: tuple, **options: object) -> Tensor:
        assert low == 0
        return draws.tokens(high, size)

    def gumbel(like: Tensor, generator: object = None) -> Tensor:
        return -torch.log(-torch.log(draws.uniform(like.shape)))

    with (
        mock.patch.object(torch, "multinomial", multinomial),
        mock.patch.object(torch, "randint", randint),
        mock.patch.object(scheduling_amused, "gumbel_noise", gumbel),
    ):
        yield


def assert_law(tokens: Tensor, law: Tensor) -> None:
    """Independent draws are as often each token as the law [V] says, in proportion, and never one without."""
    law = law.double() / law.double().sum()
    assert law[tokens].min() > 0
    assert_drawn(tokens.view(-1, 1), law, len(law))

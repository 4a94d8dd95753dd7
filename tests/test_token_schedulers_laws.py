"""What the token schedulers draw has the law of diffusers' formulas, by counts over many samples of one position."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from token_peers import assert_law
from torch import Tensor

import fastdiff as fd

N, V = 40_000, 7  # samples, and tokens beside a mask
VQ = {"num_vec_classes": V + 1, "num_train_timesteps": 8, "alpha_cum_start": 0.9, "gamma_cum_start": 0.05}


def position(seed: int) -> Tensor:
    """[V] logits; the rarest token has more than a thousandth."""
    return torch.rand(V, generator=torch.Generator().manual_seed(seed)) * 3


def many(z: Tensor) -> Tensor:
    return z.expand(N, 1, V)


def begun(kind: object, seeded: bool, seed: int, **config: object) -> object:
    scheduler = kind(**config)
    scheduler.set_timesteps(8)
    scheduler.seeds = torch.arange(N) + seed * N if seeded else None
    return scheduler


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("x", [2, V])  # a token, and the mask
@pytest.mark.parametrize("t", [0, 1, 4, 7])
def test_vq_diffusion_draws_from_the_posterior(seed: int, x: int, t: int, seeded: bool) -> None:
    scheduler = begun(fd.VQDiffusionScheduler, seeded, seed, **VQ)
    log_p, sample = many(position(seed).log_softmax(-1)).transpose(1, 2), torch.full((N, 1), x)
    law = log_p[0, :, 0].exp()
    if t > 0:
        law = scheduler.q_posterior(log_p[:1], sample[:1], t)[0, :, 0].double().exp()
        law = law.where(law > 1e-20, 0.0)  # diffusers' logarithm of 0 is -69
    assert_law(scheduler.step(log_p, t, sample, torch.Generator().manual_seed(seed)).prev_sample, law)


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("t", [0, 3, 6])
def test_the_corrector_draws_from_the_law_given_the_others(seed: int, t: int, seeded: bool) -> None:
    scheduler = begun(fd.DiscreteDDIMScheduler, seeded, seed)
    z, x, alpha = position(seed), torch.full((N, 1), 3), (t + 1) / 8
    loo = scheduler._to_loo_logits(z.double()[None, None], x[:1], alpha)[0, 0].softmax(-1)
    law = alpha * loo + (1 - alpha) / V
    found = scheduler.step_correct(many(z), t, x, generator=torch.Generator().manual_seed(seed))
    assert_law(found.prev_sample, law)
    torch.testing.assert_close(found.sampled_probs, law[found.prev_sample])


@pytest.mark.parametrize("selection", ["lowest_log_margin", "lowest_maxprob", "lowest_current_prob", "random"])
def test_the_corrector_goes_to_the_positions_that_diffusers_does(selection: str) -> None:
    """For the same generator, whose first numbers choose them. Fixed numbers, for two that are equal to rounding."""
    config = {"corrector_k": 2, "corrector_selection": selection, "corrector_selection_tau": 0.7}
    ours, theirs = (
        begun(kind, False, 0, **config) for kind in (fd.DiscreteDDIMScheduler, diffusers.DiscreteDDIMScheduler)
    )
    z = torch.randn(50, 9, V, generator=torch.Generator().manual_seed(1)) * 3
    x, chosen = torch.arange(450).view(50, 9) % V, []
    for scheduler in (ours, theirs):
        picked = scheduler._positions if scheduler is ours else scheduler._select_positions

        def watched(*arguments: object, picked: object = picked) -> Tensor:
            chosen.append(picked(*arguments))
            return chosen[-1]

        setattr(scheduler, picked.__name__, watched)
        scheduler.step_correct(z, 3, x, generator=torch.Generator().manual_seed(5))
    assert torch.equal(*chosen)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_ddim_steps_have_the_posteriors_law(seed: int, temperature: float) -> None:
    """Also where a token is surer than float32's rounding: sum_x0 p(x0) q(x_s | x_t, x0)."""
    scheduler, z, t, now = begun(fd.DiscreteDDIMScheduler, True, seed), position(seed), 5, 3
    a, b = (t / 8) / ((t + 1) / 8), (t + 1) / 8
    p = torch.nn.functional.one_hot(z.argmax(), V).double()
    if temperature:
        p = (z.double() / temperature).softmax(-1)
    kernel = a * torch.eye(V, dtype=torch.float64)[now] + (1 - a) / V  # q(x_t | x_s)
    before = b * torch.eye(V, dtype=torch.float64) + (1 - b) / V  # q(x_s | x_0), by x_0 and x_s
    joint = before * kernel
    law = (p[:, None] * joint / joint.sum(-1, keepdim=True)).sum(0)
    found = scheduler.step(many(z), t, torch.full((N, 1), now), temperature=temperature)
    assert_law(found.prev_sample, law)


def test_half_precision_keeps_the_tail(seed: int) -> None:
    """A head of 0.99 before 126,463 equal tokens: Gumbel noise of half precision, capped at ln 2^11, has none of it."""
    size, rows = 126_464, 16
    z = torch.zeros(1, 1, size, dtype=torch.float16)
    z[..., 0] = math.log(99 * (size - 1))
    head = z[0, 0, 0].double().exp()
    tail = float((size - 1) / (size - 1 + head))
    scheduler, tails = fd.AmusedScheduler(mask_token_id=size), 0
    scheduler.set_timesteps(4)
    for i in range(64):
        scheduler.seeds = torch.arange(rows * 4) + (seed * 64 + i) * rows * 4
        found = scheduler.step(z.expand(rows * 4, 1, size), 0, torch.full((rows * 4, 1), size)).prev_sample
        tails += int((found != 0).sum())
    n = 64 * rows * 4
    assert abs(tails - n * tail) < 7 * math.sqrt(n * tail * (1 - tail)) + 1

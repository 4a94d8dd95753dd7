"""The laws of samplers of tokens, computed: matrices over all states of a short sequence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from chains import F64, Chain, number_of, sequences
from torch import Tensor


def assert_drawn(tokens: Tensor, law: Tensor, vocabulary: int) -> None:
    """Each sequence of [B, L] is there as often as the law [V^L] says, to 7 standard errors and a count's few."""
    counts = torch.bincount(number_of(tokens, vocabulary), minlength=len(law)).double()
    total = len(tokens)
    assert len(counts) == len(law), "a token that is none"
    assert ((counts - total * law).abs() <= 7 * (total * law * (1 - law)).sqrt() + 16).all()


def product(positions: Tensor) -> Tensor:
    """[n, m^L] the law of a sequence of independent positions [n, L, m], in the order of `sequences`."""
    found = positions[:, 0]
    for i in range(1, positions.shape[1]):
        found = (found[:, :, None] * positions[:, i, None]).flatten(1)
    return found


def random_order(chain: Chain, length: int, sizes: Sequence[int]) -> Tensor:
    """[V^L] the law of tokens committed in random sets of these sizes."""
    xs = sequences(chain.vocabulary, length)
    total = torch.zeros(len(xs), dtype=F64)
    orders = list(itertools.permutations(range(length)))
    for order in orders:
        known, prob, begin = torch.full_like(xs, chain.mask), torch.ones(len(xs), dtype=F64), 0
        for size in sizes:
            chosen = list(order[begin : begin + size])
            laws = chain(known).exp()
            for i in chosen:
                prob = prob * laws[:, i].gather(1, xs[:, i : i + 1])[:, 0]
            known[:, chosen], begin = xs[:, chosen], begin + size
        total += prob / len(orders)
    return total


def masked_step(chain: Chain, length: int, now: float, then: float, sigma: float = 0.0) -> Tensor:
    """[n, n] of the (V + 1)^L states with masks, from row to column: a step of ReMDM, ancestral at sigma 0."""
    states = sequences(chain.vocabulary + 1, length)
    p, masked = chain(states).exp(), (states == chain.mask)[..., None]
    commit = (then - (1 - sigma) * now) / (1 - now)
    drawn = torch.cat([commit * p, torch.full_like(p[..., :1], 1 - commit)], -1)
    stays = torch.nn.functional.one_hot(states, chain.vocabulary + 1) * (1 - sigma)
    stays[..., -1] += sigma
    return product(torch.where(masked, drawn, stays))


def trapezoidal_step(chain: Chain, length: int, now: float, then: float, theta: float) -> Tensor:
    """[n, n] as `masked_step`, of the theta-trapezoidal method."""
    if then >= 1:
        return masked_step(chain, length, now, then)
    states = sequences(chain.vocabulary + 1, length)
    duration = math.log((1 - now) / (1 - then))
    halfway = 1 - (1 - now) * math.exp(-theta * duration)
    first, p, a = masked_step(chain, length, now, halfway), chain(states).exp(), 1 / (2 * theta * (1 - theta))
    masked, rows = (states == chain.mask)[..., None], []
    kept = torch.nn.functional.one_hot(states, chain.vocabulary + 1).double()
    for n in range(len(states)):
        rates = (a * p - (a - 1) * p[n]).clamp(min=0)
        total = rates.sum(-1, keepdim=True)
        jump = -torch.expm1(-(1 - theta) * duration * total)
        rows.append(first[n] @ product(torch.where(masked, torch.cat([rates / total * jump, 1 - jump], -1), kept)))
    return torch.stack(rows)


def uniform_step(chain: Chain, length: int, now: float, then: float) -> Tensor:
    """[n, n] of the V^L states: a step of the uniform process, q(x_s | x_t, x0) by Bayes' rule."""
    states, size = sequences(chain.vocabulary, length), chain.vocabulary
    a, eye = now / then, torch.eye(size, dtype=F64)
    seen = a * eye + (1 - a) / size  # q(x_t | x_s) = [x_s, x_t]
    made = then * eye + (1 - then) / size  # q(x_s | x0) = [x0, x_s]
    posterior = made[:, :, None] * seen  # [x0, x_s, x_t]
    posterior = posterior / posterior.sum(1, keepdim=True)
    return product(torch.einsum("nlx,xsnl->nls", chain.denoiser(states, now).exp(), posterior[:, :, states]))


def gibbs_step(chain: Chain, length: int, alpha: float) -> Tensor:
    """[n, n] of the V^L states: one random position drawn again given the others."""
    states, size = sequences(chain.vocabulary, length), chain.vocabulary
    law = alpha * chain.left_out(states, alpha).exp() + (1 - alpha) / size
    found = torch.zeros(len(states), len(states), dtype=F64)
    for i in range(length):
        for k in range(size):
            changed = states.clone()
            changed[:, i] = k
            found[torch.arange(len(states)), number_of(changed, size)] += law[:, i, k] / length
    return found


def noisy(chain: Chain, length: int, alpha: float) -> Tensor:
    """[V^L] the law of a sequence whose tokens are kept with probability alpha and else uniform."""
    states, size = sequences(chain.vocabulary, length), chain.vocabulary
    kept = alpha * torch.eye(size, dtype=F64) + (1 - alpha) / size
    return chain.log_prob(states).exp() @ product(kept[states])

"""Exact numbers of samplers of tokens: the curve of sticky chains, and the whole law of a rule on short sequences."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from fastdiff import tokens
from fastdiff.ops import TokenStats
from fastdiff.tokens.rules.base import Moment

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from chains import F64, Chain, number_of, sequences


def sticky_curve(vocabulary: int, epsilon: float, length: int) -> np.ndarray:
    """h(0) .. h(L - 1) of a sticky chain: a sum over the distances to the nearest known tokens on both sides."""
    entropy = functools.cache(functools.partial(_between, vocabulary, epsilon))
    curve = np.zeros(length)
    for i in range(length):
        for left, right in itertools.product((*range(1, i + 1), None), (*range(1, length - i), None)):
            known = (left is not None) + (right is not None)
            asked = (i if left is None else left) + (length - 1 - i if right is None else right)
            rest = length - 1 - asked
            for j in range(known, rest + known + 1):
                curve[j] += math.comb(rest, j - known) / math.comb(length - 1, j) * entropy(left, right) / length
    return curve


def _between(vocabulary: int, epsilon: float, left: int | None, right: int | None) -> float:
    """The entropy of a token whose nearest known ones are so far away."""
    others = vocabulary - 1
    fade = 1 - epsilon * vocabulary / others
    (same_l, other_l), (same_r, other_r) = (
        (1 / vocabulary, 1 / vocabulary)
        if gap is None
        else ((1 + others * fade**gap) / vocabulary, (1 - fade**gap) / vocabulary)
        for gap in (left, right)
    )
    equal = same_l * same_r + others * other_l * other_r
    unequal = same_l * other_r + other_l * same_r + (vocabulary - 2) * other_l * other_r
    same = _entropy([(1, same_l * same_r), (others, other_l * other_r)])
    different = _entropy([(1, same_l * other_r), (1, other_l * same_r), (vocabulary - 2, other_l * other_r)])
    return equal * same + others * unequal * different


def _entropy(terms: list[tuple[int, float]]) -> float:
    """Of weights that are to be normalised, each so many times."""
    whole = sum(count * weight for count, weight in terms)
    return -sum(count * w / whole * math.log(w / whole) for count, w in terms if count * w > 0)


def law_of(chain: Chain, length: int, plan: tokens.Plan) -> tuple[Tensor, float]:
    """([V^L] the law of the sampler at temperature 1, its mean number of calls), for rules that use no random choice.

    All states with masks have a probability; a step moves it along all draws of the masked tokens.
    """
    states = sequences(chain.vocabulary + 1, length)
    p, logs = torch.zeros(len(states), dtype=F64), chain(states)
    p[-1], calls = 1.0, 0.0
    for i in range(plan.steps or length):
        masks = (states == chain.mask).sum(-1)
        active = (p > 0) & (masks > 0)
        if not bool(active.any()):
            break
        calls += float(p[active].sum())
        after = torch.where(active, 0.0, p)
        for count in masks[active].unique().tolist():
            rows = (active & (masks == count)).nonzero()[:, 0]
            draws = sequences(chain.vocabulary, count)
            here = states[rows].repeat_interleave(len(draws), 0)
            law = logs[rows].repeat_interleave(len(draws), 0)
            drawn = here.masked_scatter(here == chain.mask, draws.repeat(len(rows), 1))
            log_prob = law.gather(-1, drawn[..., None])[..., 0]
            share = (log_prob * (here == chain.mask)).sum(-1).exp() * p[rows].repeat_interleave(len(draws))
            after.index_add_(
                0, number_of(_advanced(plan, i, here, drawn, law, log_prob, chain.mask), chain.vocabulary + 1), share
            )
        p = after
    whole = (states != chain.mask).all(-1)
    found = torch.zeros(chain.vocabulary**length, dtype=F64)
    found[number_of(states[whole], chain.vocabulary)] = p[whole]
    return found, calls


def _advanced(
    plan: tokens.Plan, i: int, here: Tensor, drawn: Tensor, law: Tensor, log_prob: Tensor, mask: int
) -> Tensor:
    """The states after step i."""
    p = law.exp()
    top = p.topk(2, -1)
    entropy = -(p * law).sum(-1)
    stats = TokenStats(
        top.indices[..., 0], drawn, log_prob, top.values[..., 0], top.values[..., 0] - top.values[..., 1], entropy,
        None, log_prob, entropy,
    )  # fmt: skip
    masked = here == mask
    quota = torch.ones(len(here), dtype=torch.int64)
    if plan.reached is not None:
        quota = plan.reached[i + 1] - (~masked).sum(-1)
    model = SimpleNamespace(stats=lambda *arguments: stats)
    alpha = torch.zeros(len(here), dtype=F64)
    moment = Moment(
        i, plan.steps or here.shape[1], here, torch.ones_like(masked), masked, quota, alpha, (0.0, 1.0), mask, model,
        lambda index: alpha,
    )  # fmt: skip
    return plan.rule.advance(moment)


def divergence(chain: Chain, length: int, law: Tensor) -> float:
    """KL(p || law) in nats."""
    log_p = chain.log_prob(sequences(chain.vocabulary, length))
    return float(log_p.exp() @ (log_p - law.log()))

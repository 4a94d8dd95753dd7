"""Fitted plans of tokens: the curve, the best sizes, the closed form of the divergence, and what a fit promises."""

from __future__ import annotations

import itertools
import math

import chains
import numpy as np
import pytest
import token_laws
import torch
from chains import F64

import fastdiff as fd
from fastdiff.tokens.fitting.curve import falling
from fastdiff.tokens.fitting.limits import best_limits
from fastdiff.tokens.fitting.sizes import best_sizes, excess
from fastdiff.tokens.fitting.texts import PLAIN, make_teacher


def teacher_of(chain, texts):
    return make_teacher(chain, texts, chain.mask, 1, len(texts), None, None, PLAIN, 0, {})


def all_sizes(length, steps):
    for ends in itertools.combinations(range(1, length), steps - 1):
        yield tuple(np.diff((0, *ends, length)).tolist())


def exact_curve(chain, length):
    """h(0) .. h(L - 1), a sum over all texts and all sets of known tokens."""
    texts = chains.sequences(chain.vocabulary, length)
    p, found = chain.log_prob(texts).exp(), []
    for count in range(length):
        terms = []
        for known in itertools.combinations(range(length), count):
            seen = torch.full_like(texts, chain.mask)
            seen[:, list(known)] = texts[:, list(known)]
            nll = -chain(seen).gather(-1, texts[..., None])[..., 0]
            terms += [float(p @ nll[:, i]) for i in set(range(length)) - set(known)]
        found.append(np.mean(terms))
    return np.array(found)


def random_curve(length):
    values = np.random.rand(length) if np.random.rand() < 0.5 else np.random.choice([0.0, 1.0, 2.5], length)
    return np.sort(values)[::-1].copy()


def test_the_best_sizes_are_those_of_trying_all():
    for _ in range(200):
        length = np.random.randint(1, 10)
        steps = np.random.randint(1, length + 1)
        curve = random_curve(length)
        least = min(excess(curve, sizes) for sizes in all_sizes(length, steps))
        found = best_sizes(curve, steps)
        assert (sum(found), len(found), min(found) >= 1) == (length, steps, True)
        assert excess(curve, found) == pytest.approx(least, abs=1e-12)


def test_the_best_sizes_of_long_texts_are_those_of_the_plain_recursion():
    curve, steps = random_curve(300), 40
    places = np.arange(301)
    ways = np.where(places[:, None] > places[:-1], (places[:, None] - places[:-1]) * curve, np.inf)
    reached = np.where(places == 0, 0.0, np.inf)
    for _ in range(steps):
        reached = (ways + reached[:-1]).min(1)
    assert excess(curve, best_sizes(curve, steps)) == pytest.approx(reached[-1] - curve.sum(), abs=1e-9)


def test_one_token_a_step_adds_nothing_and_one_step_adds_what_all_tokens_share():
    chain, length = chains.markov(3), 5
    curve = exact_curve(chain, length)
    texts = chains.sequences(3, length)
    p = chain.log_prob(texts).exp()
    assert curve.sum() == pytest.approx(-float(p @ p.log()))
    assert excess(curve, [1] * length) == pytest.approx(0, abs=1e-12)
    alone = chain(torch.full((1, length), chain.mask))[0]
    marginals = -float((alone.exp() * alone).sum())
    assert excess(curve, [length]) == pytest.approx(marginals - curve.sum())


@pytest.mark.parametrize("sizes", [(1, 2, 2), (2, 3), (3, 1, 1), (5,)])
def test_the_closed_form_is_the_mean_divergence_over_all_orders(sizes):
    chain, length = chains.hidden_markov(2, 3), 5
    texts = chains.sequences(3, length)
    log_p = chain.log_prob(texts)
    total, orders = 0.0, list(itertools.permutations(range(length)))
    for order in orders:
        known, log_q, begin = torch.full_like(texts, chain.mask), torch.zeros(len(texts), dtype=F64), 0
        for size in sizes:
            chosen = list(order[begin : begin + size])
            log_q += chain(known).gather(-1, texts[..., None])[:, chosen, 0].sum(1)
            known[:, chosen], begin = texts[:, chosen], begin + size
        total += float(log_p.exp() @ (log_p - log_q)) / len(orders)
    curve = exact_curve(chain, length)
    assert excess(curve, sizes) == pytest.approx(total, abs=1e-10)
    mixed = token_laws.random_order(chain, length, sizes)
    assert float(log_p.exp() @ (log_p - mixed.log())) <= total + 1e-12, "the sampler, which mixes orders, is closer"


def test_the_curve_is_that_of_the_chain_to_its_errors():
    chain, length = chains.markov(4), 6
    curve = fd.tokens.information_curve(chain, chain.draw(4000, length), chain.mask, calls=6, batch=4000)
    exact = exact_curve(chain, length)
    assert (curve.knots == np.arange(length)).all()
    assert (np.abs(curve.measured - exact) <= 7 * curve.errors + 1e-12).all()
    sizes = (1, 2, 3)
    assert abs(curve.excess(sizes) - excess(exact, sizes)) <= 7 * curve.excess_error(sizes) + 0.01
    assert curve.entropy == pytest.approx(exact.sum(), abs=7 * float(curve.errors.sum()))


def test_a_curve_of_few_calls_has_straight_lines_between_its_knots():
    chain = chains.sticky(8, 0.1)
    curve = fd.tokens.information_curve(chain, chain.draw(8, 40), chain.mask, calls=10, batch=8)
    assert len(curve.knots) <= 10
    assert (curve.knots[0], curve.knots[-1], len(curve.values)) == (0, 39, 40)
    assert (np.diff(curve.values) <= 0).all()
    between = slice(curve.knots[-2], 40)
    assert np.diff(curve.values[between], 2) == pytest.approx(0, abs=1e-12)


def test_the_falling_curve_is_the_closest_one():
    values, weights = np.random.randn(30), np.random.rand(30) + 0.1
    found = falling(values, weights)
    assert (np.diff(found) <= 0).all()
    size = float(weights @ (found - values) ** 2)
    for _ in range(300):
        other = falling(found + 0.1 * np.random.randn(30), np.ones(30))
        assert float(weights @ (other - values) ** 2) >= size


def test_own_texts_of_a_model_give_its_curve():
    chain, length = chains.markov(3), 5
    masks = torch.full((3000, length), chain.mask)
    curve = fd.tokens.information_curve(chain, masks, chain.mask, calls=5, batch=3000)
    assert (np.abs(curve.measured - exact_curve(chain, length)) <= 7 * curve.errors + 1e-12).all()


def test_networks_that_are_still_trained_are_fitted_too():
    net = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9))
    texts = torch.randint(8, (8, 6))
    assert np.isfinite(fd.tokens.information_curve(net, texts, 8, calls=6).values).all()
    assert fd.tokens.fit(net, texts, 3, 8, calls=6, rules=("random", "margin")).steps == 3
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_fitted_plan_is_not_worse_than_uniform_and_cosine_on_held_out_texts():
    chain, trials = chains.sticky(8, 0.1), []
    texts = chain.draw(48, 32)
    plan = fd.tokens.fit(chain, texts, 6, chain.mask, batch=48, calls=64, report=trials.append)
    assert [trial.name for trial in trials] == ["random, uniform", "random, cosine", "random, fitted"]
    best = min(trials, key=lambda trial: trial.nll)
    assert (best.plan, plan.steps, best.steps) == (plan, 6, 6)
    assert fd.tokens.Plan.from_dict(plan.to_dict()) == plan
    curve = fd.tokens.information_curve(chain, texts, chain.mask, batch=48, calls=64)
    assert curve.excess(curve.best(6)) <= curve.excess([5, 5, 5, 5, 6, 6])


def test_what_a_run_is_taught_is_the_divergence_of_its_rule():
    """For a rule that chooses by the model's law alone -ln q(text) is known: q then sums to 1 over all texts."""
    chain, length = chains.markov(3), 5
    texts = chains.sequences(3, length)
    for rule, sizes in (
        (fd.tokens.Entropy(), (1, 2, 2)),
        (fd.tokens.Margin(), (2, 3)),
        (fd.tokens.EntropyBound(0.8), None),
    ):
        q = teacher_of(chain, texts).lesson(fd.tokens.Plan(rule, sizes)).nll.neg().exp()
        assert float(q.sum()) == pytest.approx(1, abs=1e-9)
        drawn = fd.tokens.sample(
            chain, fd.tokens.Plan(rule, sizes), torch.full((20000, length), chain.mask), chain.mask, seeds=range(20000)
        )
        token_laws.assert_drawn(drawn, q, 3)


@pytest.mark.parametrize("rule", ["threshold", "factor", "entropy_bound"])
def test_a_fitted_limit_makes_no_more_steps_than_asked_for_in_the_mean(rule):
    chain = chains.hidden_markov(3, 6)
    texts = chain.draw(24, 12)
    assert fd.tokens.fit(chain, texts, 5, chain.mask, rules=rule, batch=24).rule.name == rule
    teacher = teacher_of(chain, texts)
    assert 1 <= teacher.lesson(best_limits(teacher, rule, 5, None)).steps <= 5


def test_prompts_stay_and_blocks_have_a_plan_each():
    chain = chains.sticky(5, 0.2)
    texts = chain.draw(16, 14)
    open = torch.ones_like(texts, dtype=torch.bool)
    open[:, :2] = False
    seen = []

    def model(tokens):
        seen.append(tokens[:, :2].clone())
        return chain(tokens)

    options = {"open": open, "block": 6, "block_start": 2, "batch": 16, "calls": 24}
    plan = fd.tokens.fit(model, texts, 3, chain.mask, **options)
    assert (plan.block, plan.steps) == (6, 3)
    rows = {tuple(row) for row in texts[:, :2].tolist()}
    assert all(tuple(row) in rows for tokens in seen for row in tokens.tolist())
    assert len(fd.tokens.information_curve(model, texts, chain.mask, **options).values) == 6


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("steps", {"steps": 0}),
        ("steps", {"steps": 9}),
        ("texts", {"texts": torch.zeros(4, 8)}),
        ("texts", {"texts": -torch.ones(4, 8, dtype=torch.int64)}),
        ("texts", {"texts": torch.zeros(1, 8, dtype=torch.int64)}),
        ("texts", {"texts": torch.zeros(8, dtype=torch.int64)}),
        ("rules", {"rules": "remdm"}),
        ("rules", {"rules": ()}),
        ("calls", {"calls": 0}),
        ("batch", {"batch": 0}),
        ("held_out", {"held_out": 1.0}),
        ("block", {"block": 0}),
        ("open", {"open": torch.ones(4, 7, dtype=torch.bool)}),
        ("open", {"open": torch.zeros(4, 8, dtype=torch.bool)}),
        ("seed", {"seed": -1}),
        ("guidance", {"guidence": 2.0}),
        ("mask_id", {"mask_id": -1}),
    ],
)
def test_bad_input_is_named(name, change):
    arguments = {"texts": torch.zeros(4, 8, dtype=torch.int64), "steps": 2, "mask_id": 3} | change
    with pytest.raises((TypeError, ValueError), match=name):
        fd.tokens.fit(lambda tokens: torch.zeros(*tokens.shape, 3), **arguments)


def test_texts_that_the_model_forbids_and_a_broken_model_are_named():
    def forbids(tokens):
        return torch.tensor([0.0, 0.0, -math.inf]).expand(*tokens.shape, 3)

    for token in (2, 5):
        with pytest.raises(ValueError, match="texts"):
            fd.tokens.fit(forbids, torch.full((4, 6), token), 2, 3)
    with pytest.raises(ValueError, match="model"):
        fd.tokens.fit(
            lambda tokens: torch.full((*tokens.shape, 3), math.nan), torch.zeros(4, 6, dtype=torch.int64), 2, 3
        )
    with pytest.raises(ValueError, match="sizes"):
        fd.tokens.information_curve(forbids, torch.zeros(4, 6, dtype=torch.int64), 3).excess([1, 2])

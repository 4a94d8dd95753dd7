"""What rules of tokens draw has the law that their definition says, on chains whose laws are computed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from chains import F64, Chain, hidden_markov, markov, number_of, sequences, sticky
from token_laws import assert_drawn, gibbs_step, masked_step, noisy, random_order, trapezoidal_step, uniform_step
from torch import Tensor

import fastdiff as fd
from fastdiff import tokens as ft
from fastdiff.tokens.rules.uniform import routes

COUNT = 20_000
CHAINS = {"markov": lambda: markov(3), "hidden": lambda: hidden_markov(4, 3)}


def masks(count: int, length: int, mask: int) -> Tensor:
    return torch.full((count, length), mask)


def draw(chain: Chain, plan: ft.Plan, length: int, count: int = COUNT, **options: object) -> Tensor:
    return ft.sample(chain, plan, masks(count, length, chain.mask), chain.mask, **options)


def final(steps: list[Tensor], vocabulary: int, length: int) -> Tensor:
    """[V^L] from all masks through steps over the (V + 1)^L states."""
    law = torch.zeros(len(steps[0]), dtype=F64)
    law[-1] = 1
    for step in steps:
        law = law @ step
    states = sequences(vocabulary + 1, length)
    clean = (states < vocabulary).all(1)
    assert abs(law[clean].sum() - 1) < 1e-12
    return law[clean]


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_right(name: str) -> None:
    chain = CHAINS[name]()
    xs = sequences(3, 4)
    p = chain.log_prob(xs).exp()
    assert abs(p.sum() - 1) < 1e-12
    shown = torch.tensor([[3, 1, 3, 2]])
    agree = (xs[:, 1] == 1) & (xs[:, 3] == 2)
    for i in (0, 2):
        right = torch.stack([p[agree & (xs[:, i] == k)].sum() for k in range(3)])
        torch.testing.assert_close(chain(shown).exp()[0, i], right / right.sum())
    alpha, seen = 0.6, torch.tensor([[2, 1, 0, 2]])
    weights = p * (alpha * (xs == seen).double() + (1 - alpha) / 3).prod(1)
    for i in range(4):
        right = torch.stack([weights[xs[:, i] == k].sum() for k in range(3)])
        torch.testing.assert_close(chain.denoiser(seen, alpha).exp()[0, i], right / right.sum())


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("sizes", [(1, 3), (1, 1, 1, 1)], ids=str)
def test_random_order_has_its_law(name: str, sizes: tuple[int, ...]) -> None:
    chain = CHAINS[name]()
    law = random_order(chain, 4, sizes)
    assert_drawn(draw(chain, ft.plan("random", sizes=sizes), 4), law, 3)
    if max(sizes) == 1:
        torch.testing.assert_close(law, chain.log_prob(sequences(3, 4)).exp())


def test_one_by_one_the_law_of_eight_tokens_is_the_models() -> None:
    """All 65,536 sequences, in 97 cells that cut across everything."""
    chain = markov(4)
    law = chain.log_prob(sequences(4, 8)).exp()
    cells = torch.arange(len(law)) * 2_654_435_761 % 97
    right = torch.zeros(97, dtype=F64).index_add(0, cells, law)
    counts = torch.bincount(cells[number_of(draw(chain, ft.plan("first_hitting"), 8), 4)], minlength=97)
    assert ((counts - COUNT * right).abs() <= 7 * (COUNT * right * (1 - right)).sqrt()).all()


@pytest.mark.parametrize("rule", [ft.Ancestral(), ft.ReMDM(0.3), ft.ReMDM(0.5, "rescale", (0.3, 0.8))], ids=str)
def test_the_masked_process_has_its_law(rule: ft.Ancestral | ft.ReMDM) -> None:
    chain, sizes = markov(2), (2, 0, 1, 3)
    grid = [k / 6 for k in (0, 2, 2, 3, 6)]
    steps = []
    for i, (now, then) in enumerate(itertools.pairwise(grid)):
        sigma = rule.sigma(now, then, i / 4) if isinstance(rule, ft.ReMDM) else 0.0
        steps.append(masked_step(chain, 3, now, then, sigma))
    assert_drawn(draw(chain, ft.plan(rule, sizes=sizes), 3), final(steps, 2, 3), 2)


def test_the_trapezoidal_method_has_its_law_and_second_order() -> None:
    chain, theta = sticky(2, 0.4), 0.4
    law = final([trapezoidal_step(chain, 3, now, now + 0.25, theta) for now in (0.0, 0.25, 0.5, 0.75)], 2, 3)
    assert_drawn(draw(chain, ft.plan(ft.ThetaTrapezoidal(theta), 4), 3), law, 2)

    def step(now: float, duration: float, second_order: bool) -> Tensor:
        then = 1 - (1 - now) * math.exp(-duration)
        return trapezoidal_step(chain, 3, now, then, theta) if second_order else masked_step(chain, 3, now, then)

    def error(count: int, second_order: bool) -> float:
        """Over one unit of time, against 64 steps of the second order."""
        law = torch.eye(27, dtype=F64)
        for i in range(count):
            law = law @ step(1 - math.exp(-i / count), 1 / count, second_order)
        return float((law[-1] - finest[-1]).abs().sum())

    finest = torch.eye(27, dtype=F64)
    for i in range(64):
        finest = finest @ step(1 - math.exp(-i / 64), 1 / 64, True)
    assert error(4, True) < error(4, False)
    assert error(8, True) < error(4, True) / 3


def test_without_remasking_remdm_is_ancestral_bit_for_bit() -> None:
    chain, seeds = markov(5), torch.randint(2**62, (20,))
    ancestral = draw(chain, ft.plan("ancestral", 7), 16, 20, seeds=seeds)
    assert torch.equal(draw(chain, ft.plan(ft.ReMDM(0.0), 7), 16, 20, seeds=seeds), ancestral)


@pytest.mark.parametrize(("eta", "schedule"), [(0.2, "cap"), (0.2, "rescale"), (1.0, "cap")])
def test_masks_are_binomial_whatever_is_masked_again(eta: float, schedule: str) -> None:
    chain, length, steps = markov(3), 6, 4
    plan = ft.plan(ft.ReMDM(eta, schedule), steps)
    for step in ft.iter_sample(chain, plan, masks(COUNT, length, 3), 3):
        alpha = (step.i + 1) / steps
        right = torch.distributions.Binomial(length, torch.tensor(1 - alpha, dtype=F64))
        right = right.log_prob(torch.arange(length + 1, dtype=F64)).exp()
        counts = torch.bincount(step.left, minlength=length + 1)
        assert ((counts - COUNT * right).abs() <= 7 * (COUNT * right * (1 - right)).sqrt() + 16).all()


def test_first_hitting_commits_at_the_times_of_the_process() -> None:
    """In the limit of many ancestral steps each token's alpha is uniform: the k-th is below a if k or more of n are."""
    chain, length, seen = markov(3), 4, []

    def time(alpha: Tensor) -> dict[str, object]:
        seen.append(alpha)
        return {}

    draw(chain, ft.plan("first_hitting"), length, time=time)
    found = torch.stack(seen).sort(1).values
    assert (torch.stack(seen).diff(dim=0) > 0).all()
    for k, alphas in enumerate(found, start=1):
        law = sum(math.comb(length, n) * alphas**n * (1 - alphas) ** (length - n) for n in range(k, length + 1))
        distance = (law - (torch.arange(COUNT) + 0.5) / COUNT).abs().max()
        assert distance <= math.sqrt(math.log(2 / 1e-11) / (2 * COUNT)) + 0.5 / COUNT  # Dvoretzky, Kiefer, Wolfowitz


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("name", CHAINS)
def test_the_uniform_process_has_its_law(name: str, corrections: int) -> None:
    chain = CHAINS[name]()
    law = noisy(chain, 3, 0.0)
    for now, then in itertools.pairwise((0.0, 0.5, 0.75, 1.0)):
        law = law @ uniform_step(chain, 3, now, then)
        for _ in range(corrections if then < 1 else 0):
            law = law @ gibbs_step(chain, 3, then)

    def model(tokens: Tensor, alpha: Tensor) -> Tensor:
        return chain.denoiser(tokens, float(alpha[0]))

    plan = ft.plan(ft.Uniform(corrections), sizes=(2, 1, 1))
    drawn = ft.sample(model, plan, masks(COUNT, 3, 3), 3, time=lambda alpha: {"alpha": alpha}, vocabulary=3)
    assert_drawn(drawn, law, 3)


def test_a_gibbs_step_leaves_the_noisy_law_as_it_is() -> None:
    chain, alpha = hidden_markov(4, 3), 0.6
    law = noisy(chain, 4, alpha)
    torch.testing.assert_close(law @ gibbs_step(chain, 4, alpha), law, rtol=0, atol=1e-14)
    states = sequences(3, 4)
    shift = -math.log1p(3 * alpha / (1 - alpha))
    seeds = torch.randint(2**62, (len(states),))
    shifted = fd.ops.token_stats(
        chain.denoiser(states, alpha), states, seeds=seeds, temperature=1.0, current_shift=shift
    )
    right = chain.left_out(states, alpha)
    torch.testing.assert_close(shifted.current_prob, right.exp().gather(-1, states[..., None])[..., 0])
    torch.testing.assert_close(shifted.max_prob, right.exp().amax(-1))


def test_routes_are_the_posterior_and_the_last_step_commits() -> None:
    a, b, size = 0.3, 0.7, 5
    for same in (False, True):
        to_x0, stay, anywhere = (float(r) for r in routes(a, b, size, torch.tensor(same)))
        assert abs(to_x0 + stay + anywhere - 1) < 1e-15
        x0, x_t = 1, 1 if same else 2
        right = torch.tensor([
            (a * (k == x_t) + (1 - a) / size) * (b * (k == x0) + (1 - b) / size) for k in range(size)
        ])  # fmt: skip
        found = torch.tensor([to_x0 * (k == x0) + stay * (k == x_t) + anywhere / size for k in range(size)])
        torch.testing.assert_close(found, right / right.sum())
        assert [float(r) for r in routes(a, 1.0, size, torch.tensor(same))] == [1, 0, 0]

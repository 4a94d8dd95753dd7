"""fastdiff.hosts.flow_matching: the solver of discrete flows, on stand-ins with the package's protocol."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from host_reads import HostReads
from token_peers import assert_law
from torch import Tensor

from fastdiff.hosts.flow_matching import MixtureDiscreteEulerSolver

N, V, NOW = 40_000, 6, 2
P0 = torch.tensor([0.3, 0.1, 0.15, 0.25, 0.0, 0.2])


def path(power: float = 1.0) -> SimpleNamespace:
    """A mixture path of k(t) = t^n, as the package's PolynomialConvexScheduler gives it."""
    return SimpleNamespace(
        scheduler=lambda t: SimpleNamespace(alpha_t=t**power, d_alpha_t=power * t ** (power - 1), sigma_t=1 - t**power)
    )


class Posterior(torch.nn.Module):
    """p(x_1 | x_t), [B, ..., V], by the token at the place itself; keeps what it was called with."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.rand(V, V, generator=generator).add(0.05).div(3).softmax(-1)
        self.calls: list[tuple] = []

    def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
        self.calls.append((t, extras))
        return self.table[x]


def law_of_step(p1: Tensor, k: float, speed: float, h: float, free: float) -> Tensor:
    """By enumeration of x_1, in float64, from the rates of the package's documentation."""
    law = torch.zeros(V, dtype=torch.float64)
    for x1 in range(V):
        at = torch.nn.functional.one_hot(torch.tensor(x1), V).double()
        here = torch.nn.functional.one_hot(torch.tensor(NOW), V).double()
        u = speed / (1 - k) * at
        if free:
            u = u + free * (speed / (1 - k) * (at - here) - speed / k * (here - P0.double()))
        u[NOW] = 0
        intensity = u.sum()
        jumps = -torch.expm1(-h * intensity)
        moved = u / intensity if intensity > 0 else u
        law += p1[x1].double() * (jumps * moved + (1 - jumps) * here)
    return law


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize(("t", "free", "power"), [(0.0, 0.0, 1), (0.3, 0.0, 2), (0.3, 1.5, 1), (0.7, 4.0, 2)])
def test_a_step_has_the_chains_law(seed: int, t: float, free: float, power: int, seeded: bool) -> None:
    torch.manual_seed(seed)
    model = Posterior(seed)
    solver = MixtureDiscreteEulerSolver(model, path(power), V, P0)
    grid = torch.tensor([t, t + 0.2, 1.0])
    seeds = torch.arange(N) + seed if seeded else None
    x = torch.full((N, 1), NOW)
    states = solver.sample(x, None, div_free=free, time_grid=grid, return_intermediates=True, seeds=seeds)
    at = path(power).scheduler(torch.tensor(t))
    assert torch.equal(states[0], x)
    assert_law(states[1], law_of_step(model.table[NOW], float(at.alpha_t), float(at.d_alpha_t), 0.2, free))
    for token in range(V):  # the last step draws from the posterior
        drawn = states[2][states[1] == token]
        if len(drawn):
            assert_law(drawn, model.table[token])


def test_a_divergence_free_part_at_the_start_redraws_from_the_source(seed: int) -> None:
    """Its rate is infinite there, of which the package makes NaN."""
    x = torch.full((N, 1), NOW)
    solver = MixtureDiscreteEulerSolver(Posterior(), path(), V, P0)
    states = solver.sample(x, 0.1, div_free=1.0, time_grid=(0.0, 0.1, 1.0), return_intermediates=True, seeds=range(N))
    others = P0.clone()
    others[NOW] = 0
    assert_law(states[1], others)


def test_seeds_make_a_sample_independent_of_its_batch_and_of_logits() -> None:
    model = Posterior()
    run = {"step_size": 0.1, "div_free": lambda t: 2.0 * t, "return_intermediates": True}
    x = torch.arange(3 * 8).view(3, 2, 4) % V
    grid = torch.linspace(0, 1, 6)
    solver = MixtureDiscreteEulerSolver(model, path(), V, P0)
    together = solver.sample(x, time_grid=grid, seeds=[4, 5, 6], **run)
    assert together.shape == (6, 3, 2, 4)
    assert torch.equal(solver.sample(x[1:2], time_grid=grid, seeds=[5], **run), together[:, 1:2])
    of_logits = MixtureDiscreteEulerSolver(lambda x, t: model(x, t).log() + 3, path(), V, P0, logits=True)
    found = of_logits.sample(x, time_grid=grid, seeds=[4, 5, 6], dtype_categorical=torch.float64, **run)
    assert (found == together).double().mean() > 0.99  # but for rounding


def test_the_loop_reads_no_value_and_calls_the_model_as_the_package_does() -> None:
    model, x = Posterior(), torch.zeros(3, 5, dtype=torch.int64)
    solver = MixtureDiscreteEulerSolver(model, path(), V, P0)
    with HostReads() as reads:
        solver.sample(x, 0.25, div_free=1.0, time_grid=[0.0, 1.0], condition="a")
    assert reads.seen == []
    assert [extras for _, extras in model.calls] == [{"condition": "a"}] * 4
    times = torch.stack([t for t, _ in model.calls])
    assert torch.equal(times, torch.tensor([0.0, 0.25, 0.5, 0.75])[:, None].expand(4, 3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("source_distribution_p", {"div_free": 1.0}),
        ("step_size", {"step_size": 1.5}),
        ("step_size", {"step_size": 0.0}),
        ("time_grid", {"time_grid": [0.0]}),
        ("seeds", {"seeds": [1]}),
    ],
)
def test_bad_arguments_are_named(name: str, change: dict) -> None:
    solver = MixtureDiscreteEulerSolver(Posterior(), path(), V)
    with pytest.raises(ValueError, match=name):
        solver.sample(torch.zeros(2, 3, dtype=torch.int64), **{"step_size": 0.5, **change})
    with pytest.raises(ValueError, match="source_distribution_p"):
        MixtureDiscreteEulerSolver(Posterior(), path(), V, P0[1:])


def test_the_package_itself_draws_from_the_same_law(seed: int) -> None:
    """Where it is installed; not among the tests' dependencies."""
    theirs = pytest.importorskip("flow_matching.solver")
    paths = pytest.importorskip("flow_matching.path")
    schedulers = pytest.importorskip("flow_matching.path.scheduler")
    torch.manual_seed(seed)
    real = paths.MixtureDiscreteProbPath(schedulers.PolynomialConvexScheduler(n=2.0))
    x, grid = torch.full((N, 1), NOW), torch.tensor([0.3, 0.5, 1.0])
    for kind in (theirs.MixtureDiscreteEulerSolver, MixtureDiscreteEulerSolver):
        solver = kind(Posterior(), real, V, P0)
        states = solver.sample(x, None, div_free=1.5, time_grid=grid, return_intermediates=True)
        assert_law(states[1], law_of_step(Posterior().table[NOW], 0.09, 0.6, 0.2, 1.5))

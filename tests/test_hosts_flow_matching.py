"""fastdiff.hosts.flow_matching.ODESolver: the library's numbers with its methods, fewer evaluations by default."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.hosts.flow_matching import ODESolver

WIDTH = 0.5


class Velocity(nn.Module):
    """The library's protocol: keywords x and t, t without a dimension; x1 - x0 for data N(shift, WIDTH^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.asked = nn.Parameter(torch.tensor(1.0)), []

    def forward(self, x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        assert t.ndim == 0
        self.asked.append(float(t))
        gain = (WIDTH**2 * t - (1 - t)) / (WIDTH**2 * t**2 + (1 - t) ** 2)
        return self.scale * (shift + gain * (x - t * shift))


def test_the_default_makes_as_many_evaluations_as_euler_and_errs_less():
    x, field = torch.randn(64, 3, dtype=torch.float64), Velocity().double()
    for step_size in (0.25, 0.13, 0.1):
        found = ODESolver(field).sample(x, step_size, shift=2.0)
        count, field.asked = len(field.asked), []
        euler = ODESolver(field).sample(x, step_size, method="euler", shift=2.0)
        assert count == len(field.asked)
        field.asked = []
        exact = 2.0 + WIDTH * x
        assert (found - exact).abs().max() < (euler - exact).abs().max()
    plan = fd.plan(None, fd.Schedule.flow(), 10)
    expected = fd.sample(lambda x, t: -field(x, 1 - t[0]).detach(), plan, x)
    assert torch.allclose(ODESolver(field).sample(x, 0.1), expected, atol=1e-12)


def test_intermediate_states_come_at_the_times_of_the_grid():
    x, grid = torch.randn(4, 3), torch.linspace(0, 1, 6)
    states = ODESolver(Velocity()).sample(x, None, time_grid=grid, return_intermediates=True)
    assert states.shape == (6, 4, 3)
    assert torch.equal(states[0], x)
    assert torch.equal(states[-1], ODESolver(Velocity()).sample(x, 0.2))


def test_data_go_back_to_noise():
    x = WIDTH * torch.randn(8, 3, dtype=torch.float64)
    noise = ODESolver(Velocity().double()).sample(x, 0.02, time_grid=[1.0, 0.0])
    assert torch.allclose(noise, x / WIDTH, rtol=5e-3)


def test_gradients_and_adaptive_steps_are_left_to_torchdiffeq():
    pytest.importorskip("torchdiffeq")
    x, field = torch.randn(4, 3), Velocity()
    assert ODESolver(field).sample(x, 0.25, enable_grad=True).requires_grad
    found = ODESolver(field).sample(x, None, method="dopri5")
    assert not found.requires_grad
    assert torch.allclose(found, WIDTH * x, atol=1e-3)
    with pytest.raises(ValueError, match="gradients"):
        ODESolver(field).sample(x, 0.25, method="unipc", enable_grad=True)


def test_likelihood_is_the_librarys_own(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flow_matching.solver", None)
    with pytest.raises(ImportError, match="compute_likelihood: it is flow_matching's own"):
        ODESolver(Velocity()).compute_likelihood(torch.randn(2, 3), lambda x: x.sum(1), 0.5)


@pytest.mark.hosts
def test_the_librarys_methods_give_its_numbers_and_its_likelihood():
    library = pytest.importorskip("flow_matching.solver").ODESolver
    x, field = torch.randn(16, 3, dtype=torch.float64), Velocity().double()
    for method in ("euler", "midpoint", "heun2", "rk4"):
        for step_size, grid in ((0.1, [0, 1]), (None, [0, 0.1, 0.25, 0.6, 1]), (0.3, [1, 0.4, 0])):
            options: dict = {"step_size": step_size, "time_grid": torch.tensor(grid, dtype=torch.float64)}
            options |= {"method": method, "return_intermediates": True, "shift": 1.0}
            found, expected = (make(field).sample(x, **options) for make in (ODESolver, library))
            assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    arguments = (x, lambda x: -x.square().sum(1), 0.25)
    found, expected = (
        make(field).compute_likelihood(*arguments, exact_divergence=True) for make in (ODESolver, library)
    )
    assert torch.equal(found[1], expected[1])


@pytest.mark.hosts
@pytest.mark.parametrize("name", ["sample", "compute_likelihood"])
def test_signatures_begin_as_the_librarys(name):
    library = pytest.importorskip("flow_matching.solver").ODESolver
    ours = list(inspect.signature(getattr(ODESolver, name)).parameters)
    theirs = list(inspect.signature(getattr(library, name)).parameters)
    assert ours[: 4 if name == "compute_likelihood" else None] == theirs[: 4 if name == "compute_likelihood" else None]

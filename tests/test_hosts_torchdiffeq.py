"""fastdiff.odeint: torchdiffeq's numbers where both have a method, and flow models' ODEs by all others."""

from __future__ import annotations

import builtins

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff import odeint

WIDTH = 0.5  # of the data, N(0, WIDTH^2)
UP, DOWN = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
ODES = [entry.name for entry in fd.solvers() if entry.order and not entry.stochastic and entry.name != "dpm_solver_v3"]


def velocity(t: Tensor, y: Tensor) -> Tensor:
    """v = E[x0 - eps | y] at y = t x0 + (1 - t) eps; t has no dimension, as torchdiffeq gives it."""
    assert t.ndim == 0
    return (WIDTH**2 * t - (1 - t)) / (WIDTH**2 * t**2 + (1 - t) ** 2) * y


def towards_zero(t: Tensor, y: Tensor) -> Tensor:
    """The same flow on the other clock: noise at 1, data at 0."""
    return -velocity(1 - t, y)


def bent(t: Tensor, y: Tensor) -> Tensor:
    """No flow of data at all: an ODE."""
    return torch.cos(3 * t + y) - 0.3 * y


def spread(t: float) -> float:
    """The exact solution is y(t) = y(0) spread(t)."""
    return ((WIDTH * t) ** 2 + (1 - t) ** 2) ** 0.5


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2"])
@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (0.2, 0.9), (0.9, 0.2)])
@pytest.mark.parametrize("options", [{"step_size": 0.13}, {"step_size": 0.1}, None, "constructor"])
def test_fixed_steps_are_torchdiffeqs(method, ends, options):
    theirs = pytest.importorskip("torchdiffeq").odeint
    y0 = torch.randn(4, 3, dtype=torch.float64)
    t = torch.linspace(*ends, 7, dtype=torch.float64)
    if options == "constructor":
        options = {"grid_constructor": lambda func, y0, t: torch.linspace(*ends, 12, dtype=torch.float64)}
    found = odeint(bent, y0, t, method=method, options=options)
    expected = theirs(bent, y0, t, method=method, options=options)
    assert found.dtype == y0.dtype
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_field_is_asked_at_torchdiffeqs_times_as_often(dtype):
    theirs = pytest.importorskip("torchdiffeq").odeint
    asked: list[float] = []

    def watched(t: Tensor, y: Tensor) -> Tensor:
        assert t.dtype == y.dtype == dtype
        asked.append(float(t))
        return bent(t, y)

    for method in ("euler", "midpoint", "heun2"):
        for step_size in (0.1, 0.3, 1 / 7):
            y0, t = torch.randn(2, 3, dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)
            odeint(watched, y0, t, method=method, options={"step_size": step_size})
            ours, asked[:] = asked[:], []
            theirs(watched, y0, t, method=method, options={"step_size": step_size})
            assert ours == pytest.approx(asked, abs=1e-6)
            asked[:] = []


@pytest.mark.parametrize("method", ODES)
@pytest.mark.parametrize(("func", "t"), [(velocity, UP), (towards_zero, DOWN)], ids=["data at 1", "data at 0"])
def test_every_ode_solver_carries_noise_to_data(method, func, t):
    y0 = torch.randn(4, 3, dtype=torch.float64)
    found = odeint(func, y0, t, method=method, options={"step_size": 1 / 64})
    assert torch.equal(found[0], y0)
    assert (found[1] / y0 - WIDTH).abs().max() < 0.015  # of first order: about 0.5 / 64


@pytest.mark.parametrize(("func", "t", "at"), [(velocity, DOWN, 1), (towards_zero, UP, 0)])
def test_data_are_carried_to_noise(func, t, at):
    x = WIDTH * torch.randn(4, 3, dtype=torch.float64)
    for method, options in (("adams_moulton", {"step_size": 1 / 64}), ("midpoint", {"step_size": 1 / 32}),
                            ("fastdiff", {"evaluations": 32})):  # fmt: skip
        found = odeint(func, x, t, method=method, options={"data_at": at, **options})
        assert torch.allclose(found[1], x / WIDTH, rtol=5e-3)


@pytest.mark.parametrize("evaluations", [4, 6, 8, 10, 17])
def test_the_default_is_that_of_fd_plan(evaluations):
    y0, count = torch.randn(4, 3, dtype=torch.float64), []

    def counted(t: Tensor, y: Tensor) -> Tensor:
        count.append(t)
        return velocity(t, y)

    for method in (None, "fastdiff"):
        found = odeint(counted, y0, UP, method=method, options={"evaluations": evaluations})
        expected = fd.sample(lambda x, t: -velocity(1 - t[0], x), fd.plan(None, fd.Schedule.flow(), evaluations), y0)
        assert torch.allclose(found[1], expected, atol=1e-12)
        assert len(count) == evaluations
        count.clear()


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.8), (0.3, 1.0), (0.3, 0.8), (0.8, 0.3), (1.0, 0.3)])
def test_a_part_of_the_way_has_the_same_default_solver(a, b):
    y0, t, count = torch.randn(4, 3, dtype=torch.float64), torch.tensor([a, b], dtype=torch.float64), []

    def counted(t: Tensor, y: Tensor) -> Tensor:
        count.append(t)
        return velocity(t, y)

    found = odeint(counted, y0, t, method="fastdiff", options={"evaluations": 24, "data_at": 1})
    assert len(count) == 24
    assert torch.allclose(found[1], y0 * spread(b) / spread(a), rtol=2e-3)


def test_states_between_are_on_the_line_between_the_grids():
    y0, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.0, 0.1, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = odeint(velocity, y0, t, method="unipc", options={"grid": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]})
    on_grid = odeint(velocity, y0, torch.linspace(0, 1, 6, dtype=torch.float64), method="unipc")
    assert torch.allclose(found[1], (on_grid[0] + on_grid[1]) / 2, atol=1e-12)
    assert torch.allclose(found[3], (on_grid[2] + on_grid[3]) / 2, atol=1e-12)
    assert torch.equal(found[-1], on_grid[-1])


def test_a_fitted_plan_and_a_named_grid_run_too():
    y0, flow = torch.randn(4, 3), fd.Schedule.flow()
    plan = fd.plan("lms", flow, 6, grid="quadratic")
    found = odeint(velocity, y0, UP, method=plan)
    named = odeint(velocity, y0, UP, method="lms", options={"steps": 6, "grid": "quadratic"})
    assert torch.allclose(found, named, atol=1e-6)
    with pytest.raises(ValueError, match="method: expected a plan of velocities on the linear path"):
        odeint(velocity, y0, torch.tensor([0.0, 0.5]), method=plan)
    with pytest.raises(ValueError, match="method: expected a plan of velocities"):
        odeint(velocity, y0, UP, method=fd.plan("lms", fd.Schedule.vp(), 6))


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-0.7))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rate * y


def test_what_only_torchdiffeq_does_is_left_to_it():
    theirs = pytest.importorskip("torchdiffeq").odeint
    y0, field = torch.randn(4, 3), Field()
    t = torch.tensor([0.0, 1.0])
    for method in (None, "dopri5", "rk4", "explicit_adams"):
        assert torch.equal(odeint(bent, y0, t, method=method), theirs(bent, y0, t, method=method))
    pair = (y0, 2 * y0)
    both = odeint(lambda t, y: (-y[0], y[1]), pair, t, method="midpoint")
    assert torch.allclose(both[1][1], 2 * y0 * 2.5)
    for func, start in ((field, y0), (lambda t, y: field(t, y), y0), (bent, y0.clone().requires_grad_())):
        assert odeint(func, start, t, method="euler").requires_grad
        with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
            odeint(func, start, t, method="unipc")
        with torch.no_grad():
            assert not odeint(func, start, t, method="unipc").requires_grad
    at, _ = odeint(
        lambda t, y: torch.ones_like(y), torch.zeros(1), t, method="euler", options={"step_size": 0.1},
        event_fn=lambda t, y: y[0] - 0.35,
    )  # fmt: skip
    assert float(at) == pytest.approx(0.35, abs=1e-5)
    with pytest.raises(ValueError, match="'unipc' does not do events; torchdiffeq's do"):
        odeint(bent, y0, t, method="unipc", event_fn=lambda t, y: y.sum())


def test_without_torchdiffeq_the_error_says_what_needs_it(monkeypatch):
    imported = builtins.__import__

    def refuse(name: str, *more: object, **kwargs: object) -> object:
        if name == "torchdiffeq":
            raise ImportError(name)
        return imported(name, *more, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    y0 = torch.randn(2, 3)
    assert odeint(velocity, y0, UP, method="fastdiff", options={"evaluations": 4}).isfinite().all()
    with pytest.raises(ImportError, match="'dopri5' with these arguments is torchdiffeq's"):
        odeint(velocity, y0, UP, method="dopri5")


def test_wrong_arguments_are_named():
    y0 = torch.randn(2, 3)
    for t, method, options, message in (
        (torch.tensor([0.0]), "unipc", None, "t: expected a tensor of at least two"),
        (torch.tensor([0.0, 0.5, 0.4]), "unipc", None, "t: expected times that rise strictly"),
        (torch.tensor([0.0, 2.0]), "unipc", None, r"t: expected times in \[0, 1\]"),
        (UP, "unipcc", None, "did you mean unipc"),
        (UP, "euler_ancestral", None, "method: expected a solver of the ODE"),
        (UP, "fastdiff", None, "options: the default takes 'evaluations'"),
        (UP, "fastdiff", {"evaluations": 4, "step_size": 0.1}, "options: the default takes 'evaluations'"),
        (UP, "fastdiff", {"evaluations": 0}, "steps: expected a whole number >= 1"),
        (UP, "unipc", {"step_size": -0.1}, "step_size: expected a number > 0"),
        (UP, "unipc", {"grid": [0.0, 0.5]}, "grid: expected times from 0 to 1"),
        (UP, "unipc", {"grid": [0.0, 1.0], "step_size": 0.5}, "options: expected one of"),
        (UP, "unipc", {"data_at": 2}, "data_at: expected 0 or 1"),
        (UP, "unipc", {"step_size": 0.1, "orders": 2}, "order"),
    ):
        with pytest.raises(ValueError, match=message):
            odeint(velocity, y0, t, method=method, options=options)
    with pytest.raises(ValueError, match="func: expected shape"):
        odeint(lambda t, y: y[:1], y0, UP, method="unipc", options={"step_size": 0.5})
    with pytest.raises(TypeError, match="func: expected"):
        odeint(lambda t, y: None, y0, UP, method="unipc", options={"step_size": 0.5})

"""fastdiff.hosts.torchcfm.NeuralODE: torchdyn's numbers with its fixed steps, and the measured default."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.hosts.torchcfm import NeuralODE

WIDTH = 0.5


class Wrapped(nn.Module):
    """As torchcfm's torch_wrapper calls a network: t beside x as one more feature; data N(0, WIDTH^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.count = nn.Parameter(torch.tensor(1.0)), 0

    def forward(self, t: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        self.count += 1
        given = torch.cat([x, t.repeat(x.shape[0])[:, None]], 1)
        x, t = given[:, :-1], given[:, -1:]
        return self.scale * (WIDTH**2 * t - (1 - t)) / (WIDTH**2 * t**2 + (1 - t) ** 2) * x


def test_the_default_is_that_of_fd_plan_with_as_many_evaluations_as_euler():
    x, field = torch.randn(8, 3, dtype=torch.float64), Wrapped().double()
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    states = NeuralODE(field).trajectory(x, t)
    assert (len(states), field.count, states.requires_grad) == (9, 8, False)
    plan = fd.plan(None, fd.Schedule.flow(), 8)
    expected = fd.sample(lambda x, t: -field(1 - t[0], x).detach(), plan, x)
    assert torch.allclose(states[-1], expected, atol=1e-12)
    field.count = 0
    few = NeuralODE(field, sensitivity="adjoint", evaluations=5)
    assert torch.equal(few(x, t)[1], few.trajectory(x, t))
    assert field.count == 10


def test_functions_with_and_without_args_are_called_as_torchdyn_calls_them():
    x, t = torch.randn(4, 3), torch.linspace(0, 1, 5)
    plain = NeuralODE(lambda t, x: -x, solver="euler", return_t_eval=False)
    with_args = NeuralODE(lambda t, x, args={}: -x if args == {} else x, solver="euler")
    assert torch.equal(plain(x, t), with_args.trajectory(x, t))
    assert torch.allclose(plain(x)[-1], torch.zeros(4, 3), atol=1e-7)


@pytest.mark.parametrize("options", [{"solver": "dopri5"}, {"solver": "tsit5"}, {"order": 2}, {"integral_loss": abs}])
def test_what_only_torchdyn_does_says_so_without_it(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdyn.core", None)
    with pytest.raises(ImportError, match="is torchdyn's, which is not installed"):
        NeuralODE(Wrapped(), **options)


def test_wrong_arguments_are_named():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="did you mean unipc"):
        NeuralODE(Wrapped(), solver="unipcc").trajectory(x, torch.linspace(0, 1, 5))
    with pytest.raises(ValueError, match=r"t: expected times in \[0, 1\]"):
        NeuralODE(Wrapped()).trajectory(x, torch.linspace(0, 2, 5))
    with pytest.raises(ValueError, match="steps: expected a whole number >= 1"):
        NeuralODE(Wrapped(), evaluations=-1).trajectory(x, torch.linspace(0, 1, 5))


@pytest.mark.hosts
def test_fixed_steps_give_torchdyns_numbers():
    library = pytest.importorskip("torchdyn.core").NeuralODE
    x, field = torch.randn(8, 3, dtype=torch.float64), Wrapped().double()
    for solver in ("euler", "midpoint"):
        for t in (torch.linspace(0, 1, 11), torch.linspace(0.1, 0.8, 5)):
            found, expected = (make(field, solver=solver).trajectory(x, t.double()) for make in (NeuralODE, library))
            assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    theirs = NeuralODE(field, solver="dopri5", atol=1e-4, rtol=1e-4).trajectory(x, torch.linspace(0, 1, 2).double())
    assert torch.allclose(theirs[-1], WIDTH * x, atol=1e-2)

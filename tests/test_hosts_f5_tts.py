"""fastdiff.hosts.f5_tts on a stand-in for CFM and the real torchdiffeq."""

from __future__ import annotations

import copy

import pytest
import torch
from speech_stand_ins import F5
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts import f5_tts

pytest.importorskip("torchdiffeq")


@pytest.fixture
def model() -> F5:
    return F5()


def draw(model: F5, steps: int, dtype: torch.dtype = torch.float64, **options: float) -> tuple[Tensor, Tensor]:
    cond = torch.linspace(-1, 1, 2 * 6 * 4, dtype=dtype).view(2, 6, 4)
    return model.sample(cond, None, 6, steps=steps, cfg_strength=2.0, **options)


@pytest.mark.parametrize("sway", [None, -1.0])
def test_euler_by_name_is_the_hosts_own_run_with_its_trajectory(model: F5, sway: float | None) -> None:
    own = draw(model, 7, sway_sampling_coef=sway)
    f5_tts.patch(model, "euler")
    ours = draw(model, 7, sway_sampling_coef=sway)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ours, own, strict=True))


@pytest.mark.parametrize("steps", [1, 4, 6, 8, 10, 32])
def test_steps_are_evaluations_and_the_error_is_less_than_the_hosts(model: F5, steps: int) -> None:
    reference, _ = draw(model, 800)
    own, _ = draw(model, steps, sway_sampling_coef=-1.0)
    f5_tts.patch(model)
    model.transformer.times.clear()
    ours, states = draw(model, steps, sway_sampling_coef=-1.0)
    assert len(model.transformer.times) == steps == len(states) - 1
    assert all(t.ndim == 0 for t in model.transformer.times)
    if steps > 1:
        assert (ours - reference).square().mean() < (own - reference).square().mean()


def test_a_run_that_begins_within_the_way_ends_where_it_should(model: F5) -> None:
    reference, _ = draw(model, 800, t_start=0.1)
    f5_tts.patch(model)
    ours, states = draw(model, 20, t_start=0.1)
    assert float(model.transformer.times[-20]) == pytest.approx(0.1)
    assert torch.allclose(states[0], draw(model, 1, t_start=0.1)[1][0])
    assert torch.allclose(ours, reference, rtol=0, atol=0.02)


def test_half_precision_stays_so_and_finite(model: F5) -> None:
    f5_tts.patch(model)
    ours, states = draw(model, 8, torch.bfloat16, sway_sampling_coef=-1.0)
    assert ours.dtype == states.dtype == torch.bfloat16
    assert model.transformer.times[0].dtype == torch.bfloat16
    assert ours.isfinite().all()


def test_a_plan_is_run_whatever_steps_is(model: F5) -> None:
    f5_tts.patch(model, fd.plan("midpoint", fd.Schedule.flow(), 3))
    draw(model, 50)
    assert len(model.transformer.times) == 6


def test_undo_leaves_the_model_as_it_was_and_copies_are_independent(model: F5) -> None:
    own, _ = draw(model, 5)
    before = dict(vars(model))
    handle = f5_tts.patch(model)
    copied = copy.deepcopy(model)
    with pytest.raises(ValueError, match="model: it draws with fastdiff already"):
        f5_tts.patch(model)
    handle.undo()
    assert vars(model) == before
    assert torch.equal(draw(model, 5)[0], own)
    assert not torch.equal(draw(copied, 5)[0], own)


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        ("dopri5", ValueError, "solver"),
        (8, TypeError, "solver: expected None"),
        (fd.plan("ddim", fd.Schedule.linear(), 3), ValueError, "flow"),
    ],
)
def test_a_bad_solver_is_said_at_once(model: F5, solver: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        f5_tts.patch(model, solver)  # type: ignore[arg-type]
    assert model.odeint_kwargs == {"method": "euler"}


def test_another_model_is_refused() -> None:
    with pytest.raises(TypeError, match="model: expected an f5_tts CFM"):
        f5_tts.patch(torch.nn.Identity())


def test_there_are_no_events(model: F5) -> None:
    from torchdiffeq import odeint_event

    f5_tts.patch(model)
    with pytest.raises(ValueError, match="no events"):
        odeint_event(
            lambda t, y: y, torch.ones(1), torch.tensor(0.0), event_fn=lambda t, y: y - 2, method="fastdiff"
        )  # fmt: skip


@pytest.mark.hosts
def test_the_real_model_agrees() -> None:
    cfm = pytest.importorskip("f5_tts.model.cfm")

    class Net(torch.nn.Module):
        dim = 4

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x: Tensor, cond: Tensor, time: Tensor, **kwargs: object) -> Tensor:
            return torch.cat([torch.tanh(x * (1 + time)) + cond, torch.tanh(x)])

        def clear_cache(self) -> None:
            pass

    class Mel(torch.nn.Module):
        n_mel_channels = 4

    real = cfm.CFM(Net(), mel_spec_module=Mel(), num_channels=4)
    arguments = torch.ones(2, 6, 4), torch.zeros(2, 3, dtype=torch.long), 9
    options = {"steps": 16, "seed": 3, "sway_sampling_coef": -1.0, "cfg_strength": 2.0}
    own, _ = real.sample(*arguments, **options)
    handle = f5_tts.patch(real, "euler")
    ours, _ = real.sample(*arguments, **options)
    handle.undo()
    assert torch.allclose(ours, own, rtol=0, atol=1e-9)

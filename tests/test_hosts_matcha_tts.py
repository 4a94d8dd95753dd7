"""fastdiff.hosts.matcha_tts on a stand-in for BASECFM."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from speech_stand_ins import Matcha, matcha_tts
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts import matcha_tts as host


def draw(model: Matcha, steps: int, dtype: torch.dtype = torch.float64) -> Tensor:
    mu = torch.linspace(-1, 1, 2 * 4 * 9, dtype=dtype).view(2, 4, 9)
    mask = (torch.arange(9) < torch.tensor([[9], [6]]))[:, None].to(dtype)
    torch.manual_seed(0)
    return model(mu, mask, steps, temperature=0.667)


def test_euler_by_name_is_the_hosts_own_run() -> None:
    model = Matcha()
    own = draw(model, 7)
    host.patch(model, "euler")
    assert torch.allclose(draw(model, 7), own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 6, 8, 10, 32])
def test_timesteps_are_evaluations_and_the_error_is_less_than_the_hosts(steps: int) -> None:
    model = Matcha()
    reference, own = draw(model, 800), draw(model, steps)
    host.patch(model)
    model.times.clear()
    ours = draw(model, steps)
    assert len(model.times) == steps
    assert all(t.ndim == 0 for t in model.times)
    assert torch.allclose(ours[1, :, 6:], own[1, :, 6:], rtol=0, atol=1e-12)  # padding, where the estimator is 0
    if steps > 1:
        assert (ours - reference).square().mean() < (own - reference).square().mean()


def test_the_decoder_of_a_whole_model_is_found() -> None:
    model = matcha_tts()
    handle = host.patch(model, fd.plan("midpoint", fd.Schedule.flow(), 3))
    assert handle.model is model
    draw(model.decoder, 50)
    assert len(model.decoder.times) == 6


def test_half_precision_stays_so() -> None:
    model = Matcha()
    host.patch(model)
    ours = draw(model, 8, torch.bfloat16)
    assert ours.dtype == model.times[0].dtype == torch.bfloat16
    assert ours.isfinite().all()


def test_undo_leaves_the_model_as_it_was_and_a_copy_calls_its_own_estimator() -> None:
    model = Matcha()
    own, before = draw(model, 5), dict(vars(model))
    handle = host.patch(model)
    copied = copy.deepcopy(model)
    with pytest.raises(ValueError, match="model: it draws with fastdiff already"):
        host.patch(model)
    handle.undo()
    assert type(model) is Matcha
    assert vars(model) == before
    assert torch.equal(draw(model, 5), own)
    copied.times.clear()
    assert not torch.equal(draw(copied, 5), own)
    assert len(copied.times) == 5


def test_a_bad_solver_or_model_is_said_at_once() -> None:
    model = Matcha()
    with pytest.raises(ValueError, match="solver"):
        host.patch(model, "eulr")
    with pytest.raises(TypeError, match="model: expected a MatchaTTS"):
        host.patch(torch.nn.Identity())
    assert type(model) is Matcha


@pytest.mark.hosts
def test_the_real_decoder_agrees() -> None:
    flow_matching = pytest.importorskip("matcha.models.components.flow_matching")
    real = flow_matching.BASECFM(4, SimpleNamespace(solver="euler"))
    real.estimator = Matcha().estimator
    own = draw(real, 10, torch.float32)
    host.patch(real, "euler")
    assert torch.allclose(draw(real, 10, torch.float32), own, rtol=0, atol=1e-5)

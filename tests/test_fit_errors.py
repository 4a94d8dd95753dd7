"""What cannot be fitted is refused by name, before much is spent."""

from __future__ import annotations

import pytest
import torch
from mixtures import SCHEDULE, model, noise

import fastdiff as fd

pytestmark = pytest.mark.usefixtures("short_search")


def fit(subject=model, start=None, steps=4, **options):
    start = noise(40) if start is None else start
    return fd.fit(subject, SCHEDULE, steps, start, **({"prediction": "sample", "iterations": 1} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": noise(3)}, r"noise: expected \[N, \.\.\.\] with at least 4 samples, got shape \(3, 3\)"),
        ({"start": torch.zeros(40)}, r"noise: expected \[N, \.\.\.\] with at least 4 samples, got shape \(40,\)"),
        ({"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"steps": 2.5}, "steps: expected a whole number >= 1, got 2.5"),
        ({"iterations": 0}, "iterations: expected a whole number >= 1, got 0"),
        ({"method": "fast"}, "method: expected 'forward' or 'full', got 'fast'"),
        ({"batch": 0}, "batch: expected a whole number >= 1, got 0"),
        ({"held_out": 1.0}, r"held_out: expected a share in \(0, 1\) that leaves 2 samples, got 1.0"),
        ({"held_out": 0.99}, r"held_out: expected a share in \(0, 1\) that leaves 2 samples, got 0.99"),
        ({"seconds": -1.0}, "seconds: expected a number > 0, got -1.0"),
        ({"evaluations": 0}, "evaluations: expected a number > 0, got 0"),
        ({"memory": 0}, "memory: expected a number > 0, got 0"),
        ({"tolerance": 0.0}, "tolerance: expected a number > 0, got 0.0"),
        ({"prediction": "velocity"}, "prediction: "),
        ({"guidance": 2.0}, "uncond: guidance needs"),
        ({"reuse_uncond": True}, "reuse_uncond: without guidance"),
        ({"reuse_uncond": True, "parallel": 2, "guidance": 2.0}, "reuse_uncond: not with parallel"),
        ({"head": 2}, "head: a rank needs a folder"),
        ({"head": 40, "folder": "here"}, "rank: expected a whole number from 1 to 3, got 40"),
    ],
    ids=str,
)
def test_bad_argument_is_named(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(**options)


def test_noise_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="noise: "):
        fit(start=[[0.0] * 3] * 40)


def test_model_that_returns_nan_is_refused():
    with pytest.raises(ValueError, match="model: its samples hold NaN or infinity"):
        fit(lambda x, t: model(x, t) * torch.where(t > 1, 1.0, torch.nan)[:, None])


def test_model_that_is_not_deterministic_is_refused():
    with pytest.raises(ValueError, match=r"model: the same noise gave samples that differ by .* deterministic"):
        fit(lambda x, t: model(x, t) + 0.1 * torch.randn_like(x))


def test_model_whose_samples_do_not_converge_is_refused():
    with pytest.raises(ValueError, match=r"tolerance: halving 640 steps still changes the samples by"):
        fit(lambda x, t: model(x, t) + 3 * torch.sign(torch.sin(1e5 * x)))


@pytest.mark.parametrize(
    ("change", "name"),
    [({"start": noise(40, first=7)}, "noise, model"), ({"seed": 1}, "seed"), ({"batch": 9}, "batch")],
    ids=["noise", "seed", "batch"],
)
def test_folder_of_another_fit_is_refused(change, name, tmp_path):
    fit(folder=tmp_path)
    with pytest.raises(ValueError, match=f"folder: .* holds a fit with another {name}"):
        fit(folder=tmp_path, **change)


def test_folder_of_another_schedule_or_model_is_refused(tmp_path):
    fit(folder=tmp_path)
    with pytest.raises(ValueError, match=r"folder: .* another schedule"):
        fd.fit(model, fd.Schedule.edm(0.01, 40.0), 4, noise(40), prediction="sample", folder=tmp_path)
    with pytest.raises(ValueError, match=r"folder: .* another model"):
        fit(lambda x, t: 1.1 * model(x, t), folder=tmp_path)


def test_budget_that_ends_before_the_first_stage_is_an_error():
    with pytest.raises(RuntimeError, match=r"budget: 0 s and \d+ evaluations were spent before .*; give it more"):
        fit(evaluations=100)


def test_number_of_steps_that_no_solver_can_make_is_never_left_out():
    assert fit(steps=1).nfe == 1

"""A schedule of the caller's functions, in the caller's time: the plans of the built-in ones, on any clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastdiff as fd

OWN = {
    "vp": (fd.Schedule.vp(), 0.0, 1.0, {}),
    "cosine": (fd.Schedule.cosine(None), 0.0, 1.0, {"prediction": "v_prediction"}),
    "trigflow": (fd.Schedule.trigflow(), 0.0, math.pi / 2, {"t_min": 1e-3}),
    "discrete": (fd.Schedule.scaled_linear(), -1.0, 999.0, {"t_min": 0.0}),
    "edm": (fd.Schedule.edm(), 0.0, 80.0, {"t_min": 0.002}),
    "flow": (fd.Schedule.flow(), 0.0, 1.0, {}),
}
CASES = [("unipc", "time"), ("dpmpp_2m", "logsnr"), ("deis", "quadratic"), ("heun", "karras"), ("midpoint", "time"),
         ("exp_heun", "power"), ("lms", "logistic"), ("sa_solver", "exponential"), ("euler_ancestral", "simple"),
         ("dpmpp_2s", "sgm_uniform"), ("tcd", "time")]  # fmt: skip


def twins(name: str, mirrored: bool) -> tuple[fd.Schedule, fd.Schedule, float, float]:
    """A built-in schedule, and the same by functions of t, or of t0 + t1 - t; and what turns a time into the other."""
    own, t0, t1, options = OWN[name]
    options = {"prediction": own.default_prediction} | options
    if not mirrored:
        return own, fd.Schedule.from_functions(own.alpha, own.sigma, t0, t1, **options), 0.0, 1.0
    options = {key: t0 + t1 - value if key == "t_min" else value for key, value in options.items()}

    def alpha(t: np.ndarray) -> np.ndarray:
        return own.alpha(t0 + t1 - t)

    def sigma(t: np.ndarray) -> np.ndarray:
        return own.sigma(t0 + t1 - t)

    return own, fd.Schedule.from_functions(alpha, sigma, t1, t0, **options), t0 + t1, -1.0


@pytest.mark.parametrize("mirrored", [False, True], ids=["own clock", "other way"])
@pytest.mark.parametrize("name", OWN)
def test_the_plans_are_those_of_the_built_in_schedule(name, mirrored):
    own, schedule, offset, sign = twins(name, mirrored)
    assert schedule.kind == own.kind
    for solver, grid in CASES:
        if name == "discrete" and (solver in ("deis", "tcd") or grid in ("simple", "sgm_uniform")):
            continue  # which know of whole training indices
        for steps in (5, 12):
            options = {"prediction": schedule.default_prediction, "grid": grid}
            expected, found = fd.plan(solver, own, steps, **options), fd.plan(solver, schedule, steps, **options)
            assert found.nfe == expected.nfe
            for a, b in zip(expected.rows, found.rows, strict=True):
                assert offset + sign * b.t == pytest.approx(a.t, abs=1e-9 * (1 + abs(a.t))), (solver, grid)
            for column in expected.table.dtype.names:
                a, b = expected.table[column], found.table[column]
                assert np.allclose(a, b, rtol=1e-9, atol=1e-10), (solver, grid, column)


@pytest.mark.parametrize("name", OWN)
def test_the_default_plan_is_that_of_the_built_in_schedule(name):
    own, schedule, *_ = twins(name, True)
    for steps in (2, 6, 12):
        a, b = (fd.plan(None, s, steps, prediction=schedule.default_prediction) for s in (own, schedule))
        assert np.allclose(a.table["A"], b.table["A"], rtol=1e-8, atol=1e-9)


def test_inversion_of_a_flow_asks_at_the_clean_end():
    """The velocity is finite there, so the solver keeps its order."""
    own, schedule, *_ = twins("flow", True)
    a, b = (fd.plan("midpoint", s, 8, invert=True) for s in (own, schedule))
    assert (a.rows[0].t, b.rows[0].t) == (0.0, 1.0)
    assert np.allclose(a.table["a_x"], b.table["a_x"])


def test_the_inverse_is_exact_to_rounding():
    """On functions of no known kind: alpha = 1 - t^2, sigma = t (1 + t) / 2."""
    schedule = fd.Schedule.from_functions(lambda t: 1 - t**2, lambda t: t * (1 + t) / 2, 0.0, 1.0, t_min=1e-5)
    assert schedule.kind == "vp"
    t = np.concatenate([[1.0], np.geomspace(1e-5, 1, 2001)[:-1]])
    assert np.abs(schedule.t_of_log_snr(schedule.log_snr(t)) - t).max() < 1e-13
    points = schedule.at_log_snr(np.linspace(-8, 8, 33))
    assert np.abs(points.log_snr - np.linspace(-8, 8, 33)).max() < 1e-12


@pytest.mark.parametrize("way", ["array", "tensor", "tensor of more dimensions", "number"])
def test_functions_take_arrays_tensors_or_numbers(way):
    half = math.pi / 2
    alpha, sigma = {
        "array": (lambda t: np.cos(half * t), lambda t: np.sin(half * t)),
        "tensor": (lambda t: torch.cos(half * t), lambda t: torch.sin(half * t)),
        "tensor of more dimensions": (lambda t: (half * t[:, None]).cos(), lambda t: (half * t[:, None, None]).sin()),
        "number": (lambda t: math.cos(half * t), lambda t: math.sin(half * t)),
    }[way]
    schedule = fd.Schedule.from_functions(alpha, sigma, 0, 1)
    assert (schedule.kind, schedule.default_prediction) == ("vp", "epsilon")
    assert float(schedule.alpha(1.0)) == 0  # and not 6e-17
    assert np.allclose(schedule.at_log_snr(np.array([0.0])).t, 0.5, atol=1e-14)
    constant = fd.Schedule.from_functions(lambda t: 1.0, lambda t: 0.01 * 5000**t, 0, 1)
    assert (constant.kind, constant.init_scale) == ("ve", pytest.approx(50))


def test_plans_save_and_load_and_know_their_schedule(tmp_path):
    _, schedule, *_ = twins("flow", True)
    plan = fd.plan("unipc", schedule, 6)
    plan.save(tmp_path / "plan.json")
    loaded = fd.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    loaded.check_schedule(schedule)
    with pytest.raises(ValueError, match="schedule"):
        loaded.check_schedule(fd.Schedule.flow())


def test_a_model_of_the_other_clock_draws_the_same_samples():
    own, schedule, *_ = twins("flow", True)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(x + t[:, None])

    noise = torch.randn(4, 3, dtype=torch.float64)
    expected = fd.sample(velocity, fd.plan(None, own, 8), noise)
    found = fd.sample(lambda x, t: velocity(x, 1 - t), fd.plan(None, schedule, 8), noise)
    assert torch.allclose(found, expected, atol=1e-9)


def test_adaptive_steps_are_those_of_the_built_in_schedule():
    own, schedule, *_ = twins("flow", True)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(x + t[:, None])

    noise = torch.randn(4, 3, dtype=torch.float64)
    x, used = fd.sample_adaptive(velocity, own, noise, return_plan=True)
    y, same = fd.sample_adaptive(lambda x, t: velocity(x, 1 - t), schedule, noise, return_plan=True)
    assert (used.nfe, torch.allclose(x, y, atol=1e-6)) == (same.nfe, True)


def test_wrong_functions_are_named():
    make = fd.Schedule.from_functions
    for arguments, message in (
        ((lambda t: 1 - t, lambda t: t, 1.0, 1.0), "t0: expected two different"),
        ((lambda t: 1 - t, lambda t: t, 0.0, math.inf), "t1: expected two different"),
        ((lambda t: 1 - t, lambda t: t, 1.0, 0.0), "alpha, sigma: expected alpha / sigma to fall strictly"),
        ((lambda t: 1 - t, lambda t: np.sin(20 * t) + 1.5, 0.0, 1.0), "alpha, sigma: expected alpha / sigma to fall"),
        ((lambda t: np.sqrt(0.5 - t), lambda t: t, 0.0, 1.0), "alpha: expected finite numbers >= 0, got nan"),
        ((lambda t: 1 - t, lambda t: 0.5 - t, 0.0, 1.0), "sigma: expected finite numbers >= 0, got -"),
        ((lambda t: 1.0, lambda t: t, 0.0, 80.0), "t_min: expected the time of the least noise"),
    ):
        with pytest.raises(ValueError, match=message):
            make(*arguments)
    with pytest.raises(ValueError, match="t_min: expected a time with noise"):
        make(lambda t: 1 - t, lambda t: t, 0.0, 1.0, t_min=1.5)
    with pytest.raises(ValueError, match="prediction: expected one of"):
        make(lambda t: 1 - t, lambda t: t, 0.0, 1.0, prediction="velocity")
    with pytest.raises(TypeError, match="sigma: expected a function of a time"):
        make(lambda t: 1 - t, 0.3, 0.0, 1.0)

"""Runs parallel in time: the samples of the run row after row, in rounds over many rows at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixtures import posterior_mean
from torch import Tensor

import fastdiff as fd
from fastdiff.sampling.in_time.sample import METHODS

SCHEDULES = {"flow": fd.Schedule.flow(), "vp": fd.Schedule.scaled_linear(), "edm": fd.Schedule.edm()}
PREDICTIONS = {"flow": "flow_prediction", "vp": "v_prediction", "edm": "sample"}
SHAPE, SEEDS = (3, 2, 5), (4, 7, 11)
LABELS = torch.tensor([4, 0, 7])
GUIDED = {"y": LABELS, "uncond": {"y": torch.tensor([9])}}


class Model:
    """A model that is linear in nothing and elementwise, so that a sample's bits are the same in any call.

    calls: (x, t) of every call. gain: how fast the output changes with x.
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain, self.calls = gain, list[tuple[Tensor, Tensor]]()

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls.append((x.clone(), t.clone()))
        time = (t / (1 + t)).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        label = 0.0 if y is None else y.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        scaled = (self.gain * x) / (1 + time)
        return scaled / (1 + scaled.abs()) + 0.2 * time / (1 + time) - 0.1 * label


def exact(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The posterior mean of a Gaussian mixture in three dimensions, as the kind's prediction; x [B, 3]."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (torch.as_tensor(v) for v in SCHEDULES[kind].at(t.numpy())[1:])
        data = posterior_mean(x, alpha, sigma)
        noise = (x - alpha[:, None] * data) / sigma[:, None]
        return {"flow": noise - data, "vp": alpha[:, None] * noise - sigma[:, None] * data, "edm": data}[kind]

    return model


def plan_of(kind: str = "flow", solver: str = "dpmpp_2m", steps: int = 12, **options: object) -> fd.Plan:
    return fd.plan(solver, SCHEDULES[kind], steps, prediction=PREDICTIONS[kind], **options)


def start(batch: int = 3) -> Tensor:
    return torch.randn(batch, *SHAPE[1:], dtype=torch.float64)


def catalogue() -> list[fd.Plan]:
    """A plan of each solver."""
    return [plan_of("vp" if solver.name == "embedded" else "flow", solver.name, 6) for solver in fd.solvers()]


@pytest.mark.parametrize("plan", catalogue(), ids=lambda plan: plan.solver)
def test_a_run_is_the_linear_map_of_its_rows(plan, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])  # last: its fastdiff may not be built
    from bench.in_time_update import linear_map

    noise, model = start(), Model()
    seeds = list(SEEDS)
    states, outputs, x = [], [], noise * plan.init_scale
    for step in fd.iter_sample(model, plan, noise, seeds=seeds):
        states.append(step.x.clone())
        given, t = model.calls[-1]
        outputs.append(Model()(given, t))
    found = linear_map(plan)
    xi = [fd.noise.randn(noise.shape, seeds, index=j, dtype=noise.dtype) for j in found.indices]
    start_part, output_part, noise_part = (torch.from_numpy(part) for part in found[:3])
    made = start_part.view(-1, 1, 1, 1) * x + torch.einsum("ij,j...->i...", output_part, torch.stack(outputs))
    if xi:
        made = made + torch.einsum("ij,j...->i...", noise_part, torch.stack(xi))
    want = torch.stack([x, *states])
    assert float((made - want).abs().max()) <= 1e-12 * float(want.abs().max())
    assert not torch.triu(output_part).any(), "no state is made of its own row's output, nor of later ones"


@pytest.mark.parametrize("plan", catalogue(), ids=lambda plan: plan.solver)
def test_at_tolerance_0_the_samples_are_those_of_the_run_row_after_row_bit_for_bit(plan):
    noise, seeds = start(), list(SEEDS)
    want = fd.sample(Model(), plan, noise, seeds=seeds)
    for method in METHODS:
        got, took = fd.sample_in_time(Model(), plan, noise, method=method, tolerance=0, window=4, seeds=seeds)
        assert torch.equal(got, want), method
        assert took.converged
        assert took.rounds <= plan.nfe


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_smaller_tolerance_comes_nearer_to_the_run_row_after_row(kind, method):
    plan, noise, model = plan_of(kind, steps=40), torch.randn(4, 3, dtype=torch.float64), exact(kind)
    want = fd.sample(model, plan, noise)
    errors = []
    for tolerance in (1e-1, 1e-3, 1e-6):
        got, took = fd.sample_in_time(model, plan, noise, method=method, tolerance=tolerance)
        errors.append(float((got - want).square().mean().sqrt()))
        assert took.converged
    assert took.rounds < plan.nfe
    assert errors[-1] <= 1e-3
    assert errors[-1] <= max(errors[0], 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_have_the_dtype_of_the_noise(dtype):
    plan, noise = plan_of(), start().to(dtype)
    got, _ = fd.sample_in_time(Model(), plan, noise, tolerance=0)
    assert got.dtype == dtype
    assert torch.equal(got, fd.sample(Model(), plan, noise))


@pytest.mark.parametrize("method", ["picard", "anderson"])
def test_after_k_rounds_k_rows_are_asked_at_the_states_of_the_run_row_after_row(method):
    """Whatever the model: this one is chaotic, so that nothing but this ends its rounds."""
    plan, noise = plan_of(steps=10), start()

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.clone(), t.clone()))
        return 4 * torch.frac(7 * x) + t.view(-1, 1, 1)

    seen: list[tuple[Tensor, Tensor]] = []
    want = fd.sample(model, plan, noise)
    serial = seen[:]
    seen.clear()
    got, took = fd.sample_in_time(model, plan, noise, method=method, tolerance=0, window=4)
    assert torch.equal(got, want)
    assert took.rounds == plan.nfe
    rounds = seen[-plan.nfe :]
    for row, ((x, t), (all_x, all_t)) in enumerate(zip(serial, rounds, strict=True)):
        assert torch.equal(all_x[:3], x), row
        assert torch.equal(all_t[:3], t)


def test_a_chaotic_model_takes_parareal_as_many_rounds_as_segments():
    plan, noise = plan_of(steps=12), start()
    model = lambda x, t: 4 * torch.frac(7 * x) + t.view(-1, 1, 1)  # noqa: E731
    got, took = fd.sample_in_time(model, plan, noise, method="parareal", tolerance=0, segments=4)
    assert torch.equal(got, fd.sample(model, plan, noise))
    assert took.rounds == 4


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_device_the_samples_are_those_of_the_run_row_after_row_there(method):
    plan, noise, seeds = plan_of("vp", "dpmpp_2m_sde"), start().float().cuda(), list(SEEDS)
    got, _ = fd.sample_in_time(Model(), plan, noise, method=method, tolerance=0, seeds=seeds)
    assert torch.equal(got, fd.sample(Model(), plan, noise, seeds=seeds))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("guidance", [3.0, torch.tensor([1.0, 2.5, 7.0])], ids=["number", "tensor"])
def test_guided_runs_are_guided_rows(guidance, mode, method):
    plan, noise = plan_of(), start()
    options = {**GUIDED, "guidance": guidance, "guidance_mode": mode}
    got, took = fd.sample_in_time(Model(), plan, noise, method=method, tolerance=0, window=5, **options)
    assert torch.equal(got, fd.sample(Model(), plan, noise, **options))
    assert took.evaluations % 2 == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["flow", "vp"])
@pytest.mark.parametrize("bound", [{"clamp": 0.4}, {"threshold": 0.7, "threshold_limit": 1.5}], ids=lambda b: min(b))
def test_bounds_on_x0_hold_in_every_row(bound, kind, method):
    for solver in ("unipc", "euler"):  # of data form, and of another
        plan, noise = plan_of(kind, solver), start()
        got, _ = fd.sample_in_time(Model(2.0), plan, noise, method=method, tolerance=0, **bound)
        assert torch.equal(got, fd.sample(Model(2.0), plan, noise, **bound))


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_a_start(method):
    plan, noise, image = plan_of(start=0.6), start(), start()
    got, _ = fd.sample_in_time(Model(), plan, noise, image=image, method=method, tolerance=0)
    assert torch.equal(got, fd.sample(Model(), plan, noise, image=image))


@pytest.mark.parametrize("method", METHODS)
def test_stochastic_plans_converge_with_each_seeds_noise(method):
    plan, noise, seeds = plan_of("vp", "dpmpp_2m_sde", 30), torch.randn(3, 3, dtype=torch.float64), list(SEEDS)
    want = fd.sample(exact("vp"), plan, noise, seeds=seeds)
    got, took = fd.sample_in_time(exact("vp"), plan, noise, seeds=seeds, method=method, tolerance=1e-6)
    assert float((got - want).abs().max()) <= 1e-3
    assert took.rounds < plan.nfe


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_depends_on_its_neighbours(method):
    """At any tolerance: each has rounds of its own, some fewer than others."""
    plan, noise = plan_of("vp", "dpmpp_2m_sde", 20), start()
    noise[0] *= 0.01
    options = {"method": method, "tolerance": 0.03, "window": 6}
    together, _ = fd.sample_in_time(Model(3.0), plan, noise, seeds=list(SEEDS), **GUIDED, guidance=2.0, **options)
    for b in range(3):
        told = {"y": LABELS[b : b + 1], "uncond": GUIDED["uncond"], "guidance": 2.0}
        alone, _ = fd.sample_in_time(Model(3.0), plan, noise[b : b + 1], seeds=[SEEDS[b]], **told, **options)
        assert torch.equal(alone[0], together[b]), b


@pytest.mark.parametrize("method", METHODS)
def test_a_call_holds_no_more_samples_than_asked_and_the_samples_stay(method):
    plan, noise = plan_of(), start()
    options = {**GUIDED, "guidance": 3.0, "method": method, "tolerance": 0}
    want, whole = fd.sample_in_time(Model(), plan, noise, **options)
    model = Model()
    got, took = fd.sample_in_time(model, plan, noise, batch=8, **options)
    assert torch.equal(got, want)
    assert max(len(x) for x, _ in model.calls) == took.largest_call == 8 < whole.largest_call or method == "parareal"
    assert max(len(x) for x, _ in model.calls) <= 8
    assert took.evaluations == whole.evaluations
    assert took.calls == len(model.calls)


def test_the_report_counts_what_the_model_saw():
    plan, noise, model = plan_of(steps=30), start(), Model()
    _, took = fd.sample_in_time(model, plan, noise, tolerance=1e-3)
    assert took.calls == len(model.calls) == took.rounds + 1  # one finds out whether the model reads each time
    assert took.evaluations == sum(len(x) for x, _ in model.calls)
    assert took.largest_call == max(len(x) for x, _ in model.calls)
    assert len(took.residuals) == took.rounds
    assert took.residuals[-1] == 0
    assert took.evaluations < 3 * 3 * plan.nfe


@pytest.mark.parametrize("method", METHODS)
def test_after_max_rounds_the_run_ends_as_it_is(method):
    plan, noise = plan_of(steps=30), start()
    got, took = fd.sample_in_time(Model(), plan, noise, method=method, tolerance=0, max_rounds=2)
    assert took.rounds == 2
    assert not took.converged
    assert torch.isfinite(got).all()
    assert float((got - fd.sample(Model(), plan, noise)).norm()) > 0


@pytest.mark.parametrize("spread", [0.0, 0.5, math.inf])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_what_is_held_changes_no_sample(kind, spread):
    plan, noise = plan_of(kind, steps=20), start()
    got, _ = fd.sample_in_time(Model(), plan, noise, spread=spread, tolerance=0)
    assert torch.equal(got, fd.sample(Model(), plan, noise))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "score"])
def test_data_of_the_spread_told_takes_two_rounds(prediction):
    """On Gaussian data the slope is the model's own, so that one round after the first row all is done."""
    spread, schedule = 0.7, SCHEDULES["vp"]
    plan, noise = fd.plan("dpmpp_2m", schedule, 16, prediction=prediction), start()

    def model(x: Tensor, t: Tensor) -> Tensor:
        _, alpha, sigma = (torch.as_tensor(v).view(-1, 1, 1) for v in schedule.at(t.numpy()))
        total = alpha**2 * spread**2 + sigma**2
        data, eps = alpha * spread**2 / total * x, sigma / total * x
        return {"epsilon": eps, "sample": data, "v_prediction": alpha * eps - sigma * data, "score": -eps / sigma}[
            prediction
        ]

    got, took = fd.sample_in_time(model, plan, noise, method="picard", tolerance=1e-9, spread=spread)
    assert float((got - fd.sample(model, plan, noise)).abs().max()) <= 1e-7
    assert took.rounds <= 3


def test_outputs_that_are_not_finite_far_from_the_run_do_no_harm():
    plan, noise = plan_of(steps=25), start()
    limit = 1.2 * max(float(step.x.abs().max()) for step in fd.iter_sample(Model(), plan, noise))
    limit = max(limit, float(noise.abs().max()))

    def model(x: Tensor, t: Tensor) -> Tensor:
        late = (t < 0.5).view(-1, 1, 1)
        return torch.where(late & (x.abs().amax((1, 2), keepdim=True) > limit), torch.nan, Model()(x, t))

    for method in ("picard", "anderson"):
        got, took = fd.sample_in_time(model, plan, noise, method=method, tolerance=0, spread=0.0)
        assert torch.equal(got, fd.sample(model, plan, noise))
        assert took.converged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_plans_and_no_samples(steps, method):
    plan, noise = plan_of(steps=steps), start()
    got, _ = fd.sample_in_time(Model(), plan, noise, method=method, tolerance=0)
    assert torch.equal(got, fd.sample(Model(), plan, noise))
    empty, took = fd.sample_in_time(lambda x, t: 0 * x, plan, noise[:0], method=method)
    assert empty.shape == (0, *SHAPE[1:])
    assert took.converged


def test_a_model_that_reads_one_time_is_found_out():
    plan, noise = plan_of(), start()
    reads_first = lambda x, t: x * (1 + t[0]) / (1 + x.abs())  # noqa: E731
    with pytest.raises(ValueError, match="model: it reads one time for all samples"):
        fd.sample_in_time(reads_first, plan, noise)
    model = Model()
    model.one_time = True
    with pytest.raises(ValueError, match="model: it reads one time for all samples"):
        fd.sample_in_time(model, plan, noise)
    assert not model.calls
    reads_none = lambda x, t: x / (1 + x.abs())  # noqa: E731
    got, _ = fd.sample_in_time(reads_none, plan, noise, tolerance=0)
    assert torch.equal(got, fd.sample(reads_none, plan, noise))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "newton"}, "method: expected one of picard, anderson, parareal, got 'newton'"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"spread": -1.0}, "spread"),
        ({"window": 0}, "window"),
        ({"window": 2.5}, "window"),
        ({"history": 4}, "history: expected at most 3"),
        ({"segments": 0}, "segments"),
        ({"max_rounds": 0}, "max_rounds"),
        ({"batch": 0}, "batch"),
        ({"clamp": -1.0}, "clamp"),
        ({"mask": torch.ones(SHAPE)}, "mask"),
        ({"graph": True}, "graph"),
        ({"callback": print}, "callback"),
        ({"return_trajectory": True}, "return_trajectory"),
        ({"observation": object()}, "observation"),
        ({"correction": "gaussian"}, "correction"),
        ({"particles": 4}, "particles"),
        ({"parallel": True}, "parallel"),
        ({"windows": 4}, "did you mean window"),
        ({"guidance": fd.guidance.APG(3.0), "uncond": GUIDED["uncond"]}, "guidance: expected a number or a tensor"),
        ({"guidance": 3.0}, "uncond"),
        ({"guidance": 3.0, "uncond": GUIDED["uncond"], "batch": 1}, "batch: guidance in one call needs 2"),
        ({"guidance": 3.0, "uncond": GUIDED["uncond"], "guidance_mode": "ranks"}, "guidance_mode: 'ranks' is for"),
        ({"guidance": torch.ones(2), "uncond": GUIDED["uncond"]}, "guidance"),
        ({"seeds": [1, 2]}, "seeds"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(options, named):
    model = Model()
    with pytest.raises((ValueError, TypeError), match=named):
        fd.sample_in_time(model, plan_of("vp", "dpmpp_2m_sde"), start(), **{"y": LABELS, **options})
    assert not model.calls


def test_rows_that_make_no_whole_evaluation_are_refused():
    plan = plan_of()
    with pytest.raises(ValueError, match="cheap calls, which no run parallel in time makes"):
        fd.sample_in_time(Model(), plan.with_calls(["full", "cheap"]), start())
    rows = (*plan.rows[:2], *(replace(row, uncond=(1.0,)) for row in plan.rows[2:]))
    with pytest.raises(ValueError, match="no unconditional call, and a run parallel in time makes it at every row"):
        fd.sample_in_time(Model(), replace(plan, rows=rows), start())

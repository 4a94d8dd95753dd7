"""Rows in turns: runs that ask the model about several states in one call, and the same samples row after row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian import run_rows
from torch import Tensor

import fastdiff as fd
from fastdiff.fitting.parallel import FORMS, ParallelSpec, first_order
from fastdiff.plans.grid import make_grid
from fastdiff.plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate

SCHEDULES = {"flow": fd.Schedule.flow(), "vp": fd.Schedule.scaled_linear(), "edm": fd.Schedule.edm()}
PREDICTIONS = {"flow": "flow_prediction", "vp": "epsilon", "edm": "sample"}
SHAPE = (3, 2, 5)
LABELS = torch.tensor([4, 0, 7])
PLAIN = {"y": LABELS}
GUIDED = {"y": LABELS, "uncond": {"y": torch.tensor([9])}}


def spec(kind: str = "flow", count: int = 2, form: str = "data") -> ParallelSpec:
    return ParallelSpec("parallel", SCHEDULES[kind], PREDICTIONS[kind], {"evaluations": count, "form": form})


def plan_of(kind: str, count: int, form: str = "data", steps: int = 4) -> fd.Plan:
    """The theory's, with each weight that a fit may change moved, and outputs read as far back as rows may."""
    plan, rows = spec(kind, count, form).build(make_grid(SCHEDULES[kind], steps, "quadratic")), []
    for i, row in enumerate(plan.rows):
        unknown = 0 if i % count == count - 1 else i % count + 1
        known = max(0, min(i + 1, 8) - unknown)
        history = (*[0.0] * unknown, *(0.1 * np.random.normal(size=known)))
        line = replace(row.x, base=0.9 * row.x.base, x=0.9 * row.x.x, history=tuple(map(float, history)))
        rows.append(replace(row, x=line, c_in=1.0 + 0.1 * float(np.random.uniform())))
    return replace(plan, rows=tuple(rows))


class Model:
    """A model that is linear in nothing, and remembers how many samples its calls had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls.append(len(x))
        time, label = (v.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) for v in (t / 1000, y))
        return torch.tanh(x * (1 + time) + 0.1 * label) + 0.2 * x.roll(1, -1) * torch.cos(time + label)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_turn_is_one_call_and_the_samples_are_those_of_row_after_row(kind, count, dtype):
    plan, model, noise = plan_of(kind, count), Model(), torch.randn(SHAPE).to(dtype)
    one_by_one = fd.sample(model, plan, noise, **PLAIN)
    assert model.calls == [3] * plan.nfe
    model.calls.clear()
    together = fd.sample(model, plan, noise, parallel=True, **PLAIN)
    assert model.calls == [3 * count] * 4
    assert together.dtype == dtype
    assert torch.isfinite(together).all()
    # The model may round otherwise at another batch, which so few steps make no more than some ten times larger.
    bound = min(100 * torch.finfo(dtype).eps, 0.05) * float(one_by_one.abs().max())
    assert float((together - one_by_one).abs().max()) <= bound


@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("guidance", [3.0, torch.tensor([1.0, 2.5, 7.0])])
def test_guided_turns_are_guided_rows(guidance, mode):
    plan, model, noise = plan_of("flow", 2), Model(), torch.randn(SHAPE, dtype=torch.float64)
    options = {**GUIDED, "guidance": guidance, "guidance_mode": mode}
    one_by_one = fd.sample(model, plan, noise, **options)
    model.calls.clear()
    together = fd.sample(model, plan, noise, parallel=True, **options)
    assert model.calls == ([12] * 4 if mode == "batch" else [6] * 8)
    torch.testing.assert_close(together, one_by_one, rtol=1e-11, atol=1e-11)


def test_a_turn_is_what_the_rows_say_in_double_precision():
    plan, shape = plan_of("edm", 3), (5, 7)
    model = lambda x, t: torch.sin(x) / (1 + t[:, None])  # noqa: E731
    noise = torch.randn(shape, dtype=torch.float64)
    plan = replace(plan, rows=tuple(replace(row, c_in=1.0) for row in plan.rows))
    want = run_rows(plan, lambda x, alpha, sigma: np.sin(x) / (1 + sigma), noise.numpy() * plan.init_scale)
    got = fd.sample(model, plan, noise, parallel=True).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * np.abs(want).max())


def test_no_sample_depends_on_its_neighbours():
    plan, model, noise = plan_of("vp", 2), Model(), torch.randn(SHAPE, dtype=torch.float64)
    whole = fd.sample(model, plan, noise, parallel=True, **PLAIN)
    for k in range(len(noise)):
        alone = fd.sample(model, plan, noise[k : k + 1], parallel=True, y=LABELS[k : k + 1])
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_an_output_that_never_changes_is_followed_exactly(kind, count, form):
    """Then many steps are one, however the states between are guessed."""
    schedule = SCHEDULES[kind]
    points = make_grid(schedule, 5, "quadratic")
    if kind == "flow":  # pure noise has no data, and says nothing about them
        points = points.at(slice(1, None))
    plan = spec(kind, count, form).build(points)
    assert plan.turns == tuple(range(i, i + count) for i in range(0, plan.nfe, count))
    start, output = torch.randn(2, 3, 4, dtype=torch.float64)
    rows = tuple(replace(row, p_x=0.0, p_m=1.0) for row in plan.rows)
    from_state, from_output = first_order(form, points.at(0), points.at(-1))
    got = fd.sample(lambda x, t: output.repeat(len(x) // 3, 1), replace(plan, rows=rows), start, parallel=True)
    want = from_state * plan.init_scale * start + from_output * output
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * plan.init_scale)


def test_states_of_a_turn_lie_evenly_up_to_the_next_one():
    points = make_grid(SCHEDULES["flow"], 3, "time")
    plan = spec("flow", 3).build(points)
    sigma = [row.sigma for row in plan.rows]
    np.testing.assert_allclose(sigma, np.array([6, 5, 4, 4, 3, 2, 2, 1.1, 0.2]) / 6, atol=1e-12)


def test_only_rows_whose_states_are_known_share_a_turn():
    first, second = plan_of("flow", 2, steps=1).rows

    def turns(*rows: fd.plans.row.Row) -> list[int]:
        return [len(turn) for turn in fd.Plan(rows, (1.0, 0.0), "flow_prediction").turns]

    assert turns(first, second) == [2]
    assert turns(replace(first, x=LinearUpdate(x=1.0, history=(0.1,))), second) == [1, 1]
    assert turns(replace(first, base=LinearUpdate(x=1.0, history=(0.1,))), second) == [1, 1]
    assert turns(replace(first, base=LinearUpdate(x=0.5)), second) == [2]
    reads_one = replace(second, x=LinearUpdate(base=1.0, history=(0.1,)))
    assert turns(first, reads_one) == [2]
    assert turns(replace(first, drop_history=(0,)), reads_one) == [1, 1]
    assert turns(first, replace(second, call="cheap")) == [1, 1]
    keeps = replace(first, base=BASE_UNCHANGED, x=LinearUpdate(base=1.0, history=(0.0, 0.1)))
    assert first.base == BASE_FROM_X
    assert turns(first, keeps, second) == [2, 1]  # the second reads the first one's output
    assert turns(first, replace(keeps, x=LinearUpdate(base=1.0, history=(0.0, 0.0))), second) == [3]


def test_turns_outlive_a_file_and_are_told(tmp_path):
    plan = plan_of("flow", 2)
    plan.save(tmp_path / "plan.json")
    loaded = fd.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.turns == plan.turns
    assert "8 model evaluations in 4 turns" in plan.explain()
    assert "turns" not in fd.plan("heun", SCHEDULES["flow"], 4).explain()


def test_every_row_of_the_catalogue_waits_for_the_one_before():
    for solver in fd.solvers():
        plan = fd.plan(solver.name, SCHEDULES["flow" if solver.name != "embedded" else "vp"], 6)
        assert len(plan.turns) == plan.nfe, solver.name


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"clamp": 1.0}, "clamp"),
        ({"threshold": 0.9}, "threshold"),
        ({"mask": torch.ones(SHAPE)}, "mask"),
        ({"graph": True}, "graph"),
        ({"callback": print}, "callback"),
        ({"progress": True}, "progress"),
        ({"return_trajectory": True}, "return_trajectory"),
        ({"guidance": fd.guidance.APG(3.0), "uncond": GUIDED["uncond"]}, "guidance"),
        ({"guidance": 3.0}, "uncond"),
        ({"guidance": torch.ones(2), "uncond": GUIDED["uncond"]}, "guidance"),
        ({"yy": LABELS}, "y"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(options, named):
    with pytest.raises((ValueError, TypeError), match=named):
        fd.sample(Model(), plan_of("flow", 2), torch.randn(SHAPE), parallel=True, **{**PLAIN, **options})


def test_a_model_that_reads_one_time_gets_no_turn_of_several():
    model, noise, plan = Model(), torch.randn(SHAPE), fd.plan("unipc", SCHEDULES["flow"], 4)
    model.one_time = True
    assert torch.equal(fd.sample(model, plan, noise, parallel=True, **PLAIN), fd.sample(model, plan, noise, **PLAIN))
    with pytest.raises(ValueError, match="parallel: the model reads one time"):
        fd.sample(model, plan_of("flow", 2), noise, parallel=True, **PLAIN)


def test_cheap_calls_are_refused():
    plan = fd.plan("unipc", SCHEDULES["flow"], 4).with_calls(["full", "cheap"])
    with pytest.raises(ValueError, match="cheap calls, which no parallel run makes"):
        fd.sample(Model(), plan, torch.randn(SHAPE), parallel=True, **PLAIN)


def test_rows_without_an_unconditional_call_are_refused():
    plan = fd.plan("unipc", SCHEDULES["flow"], 4)
    plan = replace(plan, rows=(*plan.rows[:2], *(replace(row, uncond=(1.0,)) for row in plan.rows[2:])))
    with pytest.raises(ValueError, match="no unconditional call, and a parallel run makes it at every row"):
        fd.sample(Model(), plan, torch.randn(SHAPE), parallel=True, **PLAIN)


def test_a_scheduler_runs_such_a_plan_row_after_row():
    pytest.importorskip("diffusers", reason="diffusers is in the test extra")
    plan, noise = plan_of("vp", 2), torch.randn(SHAPE, dtype=torch.float64)
    plan = replace(plan, rows=tuple(replace(row, c_in=1.0) for row in plan.rows), schedule=SCHEDULES["vp"].knots())
    scheduler = fd.PlanScheduler(plan)
    scheduler.set_timesteps(plan.nfe)
    x, model = noise * scheduler.init_noise_sigma, Model()
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t.expand(3), LABELS), t, x).prev_sample
    torch.testing.assert_close(x, fd.sample(model, plan, noise, parallel=True, **PLAIN), rtol=1e-6, atol=1e-6)

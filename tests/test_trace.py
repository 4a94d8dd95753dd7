"""A trace is the run itself: the same samples, and numbers that hand computation and known solutions confirm."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian import DATA, SCHEDULES
from safetensors.torch import save_file
from scipy.integrate import quad
from torch import Tensor

import fastdiff as fd
from fastdiff import demo
from fastdiff import guidance as fg
from fastdiff.inspection.record import TENSORS

FLOW = fd.Schedule.flow()
SOLVERS = [entry.name for entry in fd.solvers()]
JUMPS = {"lcm", "consistency", "renoise"}  # each step forgets x


def velocity(x: Tensor, t: Tensor, y: float = 0.0) -> Tensor:
    """A model of flow prediction, nothing in particular."""
    return torch.sin(1.3 * x + t.view(-1, *[1] * (x.ndim - 1)) + y) + 0.3 * y * x


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def gaussian_model(schedule: fd.Schedule):
    """E[x0 | x] of Gaussian data, in float64."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        point = schedule.at(float(t[0]))
        return torch.from_numpy(DATA.x0(x.numpy(), float(point.alpha), float(point.sigma)))

    return model


def exact_errors(trace: fd.Trace) -> np.ndarray:
    """[n, B] the errors of steps of one row from x, by the solution of the flow."""
    levels = [(row.alpha, row.sigma) for row in trace.plan.rows] + [trace.plan.end]
    found = []
    for s, t, x, after in zip(levels[:-1], levels[1:], trace.x[:-1].numpy(), trace.x[1:].numpy(), strict=True):
        difference = DATA.flow(x, s)(*t) - after
        found.append(np.sqrt((difference**2).mean(1)) / sum(t))
    return np.array(found)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_result_is_that_of_sample_bit_for_bit(solver):
    plan, x = fd.plan(solver, FLOW, 6), noise(3, 5)
    for options in ({}, {"guidance": 2.5, "uncond": {"y": 0.4}, "guidance_mode": "calls"}):
        trace = fd.trace(velocity, plan, x, seeds=[1, 2, 3], **options)
        assert torch.equal(trace.result, fd.sample(velocity, plan, x, seeds=[1, 2, 3], **options))
        assert torch.equal(trace.x[-1], trace.result)
        assert trace.output_names == (("c", "u") if options else ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"clamp": 0.7},
        {"threshold": 0.9},
        {"guidance": torch.tensor([1.5, 3.0]), "uncond": {"y": 0.4}, "guidance_mode": "calls"},
        {"guidance": fg.APG(3.0), "uncond": {"y": 0.4}, "guidance_mode": "calls"},
        {"guidance": fg.CFGpp(0.6), "uncond": {"y": 0.4}, "guidance_mode": "calls"},
        {"guidance": fg.CFG(3.0, interval=(0.3, 2.0)), "uncond": {"y": 0.4}, "guidance_mode": "calls"},
        {"observation": "half"},
        {"image": "zeros", "mask": torch.tensor([1.0, 0.0, 1.0, 0.5, 1.0])},
        {"correction": lambda step: 0.9 * step.denoised},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_of_sample_is_traced_bit_for_bit(options, dtype):
    plan, x = fd.plan("dpmpp_2m", FLOW, 5), noise(2, 5, dtype=dtype)
    options = dict(options)
    if "image" in options:
        options["image"] = torch.zeros_like(x)
    if "observation" in options:
        options["observation"] = fd.Observation(lambda x: x[:, :2], noise(2, 2, dtype=x.dtype), noise=0.5)
    trace = fd.trace(velocity, plan, x, **options)
    assert torch.equal(trace.result, fd.sample(velocity, plan, x, **options))
    assert trace.result.dtype == dtype
    assert bool(trace.finite.all())


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 1, 1, 2, 2, 2)])
def test_samples_of_any_shape_are_traced(shape):
    trace = fd.trace(lambda x, t: 0.5 * x, fd.plan("unipc", FLOW, 4), noise(*shape))
    assert trace.result.shape == shape
    assert trace.error.shape == (4, shape[0])
    assert len(str(trace).splitlines()) == 7


def test_cheap_rows_and_rows_that_reuse_the_unconditional_output_are_traced():
    digits = demo.network("digits")
    inner = ("shrink.0", "down.1.0", "down.1.1", "middle.0", "up.0.0", "up.0.1", "grow.0")
    model, x = fd.cached(digits.model, split=fd.Split(inner)), noise(2, *digits.shape)
    plan = fd.plan("dpmpp_2m", digits.schedule, 4, prediction=digits.prediction).with_calls(["full", "cheap"])
    given = {"guidance": 2.0, "uncond": digits.uncond(), **digits.conditions([3, 4])}
    trace = fd.trace(model, plan, x, **given)
    assert torch.equal(trace.result, fd.sample(model, plan, x, **given))
    rows = [replace(row, uncond=(1.0,)) if i in (1, 3) else row for i, row in enumerate(plan.with_calls(["full"]).rows)]
    reusing = replace(plan, rows=tuple(rows))
    trace = fd.trace(digits.model, reusing, x, **given)
    assert torch.equal(trace.result, fd.sample(digits.model, reusing, x, **given))
    assert trace.outputs[:, 0, 1].isnan().tolist() == [False, True, False, True]


def test_states_and_predictions_are_those_that_the_model_saw_and_made():
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.clone())
        return velocity(x, t)

    plan = fd.plan("heun", FLOW, 4)
    trace = fd.trace(model, plan, noise(3, 5, dtype=torch.float64))
    for i, (row, x) in enumerate(zip(plan.rows, seen, strict=True)):
        v = velocity(x, torch.full((3,), row.t, dtype=x.dtype))
        assert torch.equal(trace.x[i], x)
        torch.testing.assert_close(trace.eps[i] - trace.x0[i], v)
        torch.testing.assert_close(row.alpha * trace.x0[i] + row.sigma * trace.eps[i], x)
        torch.testing.assert_close(trace.x0_rms[i], trace.x0[i].square().mean(1).sqrt())
        if i:
            torch.testing.assert_close(trace.change[i], (trace.x0[i] - trace.x0[i - 1]).square().mean(1).sqrt())
    assert trace.accepted == [0, *(i + 1 for i, row in enumerate(plan.rows) if row.accepts)]


def test_levels_are_the_plans_and_steps_their_differences():
    plan = fd.plan("unipc", fd.Schedule.edm(), 6, grid="karras", prediction="sample")
    table = fd.trace(lambda x, t: 0.5 * x, plan, noise(2, 3)).table()
    assert table["sigma"].tolist() == [*(row.sigma for row in plan.rows), 0.0]
    assert table["t"][:-1].tolist() == [row.t for row in plan.rows]
    np.testing.assert_allclose(table["log_snr"][:-1], [-math.log(row.sigma) for row in plan.rows])
    np.testing.assert_allclose(table["step"][:-2], np.diff(table["log_snr"][:-1]))
    assert table["log_snr"][-1] == math.inf


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpmpp_3m_exact", "ipndm"])
def test_errors_are_those_of_gaussian_data_measured_exactly_and_estimated_at_leading_order(solver, name):
    schedule = SCHEDULES[name]
    plan = fd.plan(solver, schedule, 40, grid="logsnr", prediction="sample")
    model, x = gaussian_model(schedule), noise(48, 4, dtype=torch.float64)
    estimated = fd.trace(model, plan, x)
    exact = exact_errors(estimated)[:-1]
    ratios = estimated.error[:-1].square().mean(1).sqrt().numpy() / np.sqrt((exact**2).mean(1))
    assert 0.7 < np.median(ratios) < 1.1
    assert estimated.error[-1].isnan().all()  # nothing follows the last evaluation
    if solver == "dpmpp_2m":
        measured = fd.trace(model, plan, x, reference="measured", schedule=schedule, substeps=3)
        np.testing.assert_allclose(measured.error[:-1].numpy(), exact, rtol=1e-3, atol=1e-8)
        assert torch.equal(measured.result, estimated.result)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_estimate_is_exact_where_x0_is_a_polynomial_of_the_flows_time(degree):
    def data(tau: float) -> float:
        return 0.7 + (0.0, 1.1 * tau, -0.9 * tau**2)[degree]

    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, data(float(t[0])))

    plan = fd.plan("ddim" if degree < 2 else "dpmpp_2m", FLOW, 8, prediction="sample", grid="logsnr")
    trace = fd.trace(model, plan, noise(2, 3, dtype=torch.float64))
    levels = [row.sigma for row in plan.rows]
    for i in range(degree, plan.nfe - 1):  # the first steps of dpmpp_2m read one output
        s, t = levels[i], levels[i + 1]
        weighed = quad(lambda tau: data(tau) / tau**2, t, s, epsabs=1e-13)[0]
        difference = t / s * trace.x[i] + t * weighed - trace.x[i + 1]
        torch.testing.assert_close(trace.error[i], difference.square().mean(1).sqrt(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - JUMPS))
def test_steps_are_exact_and_paths_straight_for_constant_data(solver):
    plan = fd.plan(solver, FLOW, 7, prediction="sample")
    trace = fd.trace(lambda x, t: torch.full_like(x, 0.3), plan, noise(2, 3, dtype=torch.float64), seeds=[1, 2])
    known = trace.error[~trace.error.isnan()]
    assert len(known)
    assert float(known.max()) < 1e-12
    if not plan.stochastic:
        assert float(trace.angle.nan_to_num().max()) < 1e-5
        assert float(trace.deviation.nan_to_num().max()) < 1e-12


def test_a_path_that_turns_once_has_that_one_angle():
    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0] if float(t[0]) > 0.5 else [0.0, 1.0], dtype=x.dtype).expand_as(x)

    plan = fd.plan("euler", FLOW, 4, grid=[1.0, 0.75, 0.5, 0.25])
    trace = fd.trace(model, plan, noise(3, 2, dtype=torch.float64))
    angle = trace.angle[1:-1, 0]
    torch.testing.assert_close(angle, torch.tensor([0.0, 90.0, 0.0], dtype=torch.float64), atol=1e-5, rtol=0)
    # The chord from (0, 0) to (-1/2, -1/2) is sqrt(1/8) away from the corner, so 1/4 in root mean square.
    assert float(trace.deviation[2].max()) == pytest.approx(0.25)


@pytest.mark.parametrize("mode", ["batch", "calls"])
def test_guidance_terms_are_the_outputs_of_its_calls(mode):
    def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x * 0 + torch.where(y[:, None] == 1, torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))

    given = {"y": torch.ones(2), "uncond": {"y": torch.zeros(2)}, "guidance_mode": mode}
    plan = fd.plan("euler", FLOW, 3)
    for guidance, scale in ((2.0, 2.0), (torch.tensor([2.0, 5.0]), [2.0, 5.0]), (fg.CFG(2.0), 2.0)):
        trace = fd.trace(model, plan, noise(2, 2), guidance=guidance, **given)
        assert trace.output_names == ("c", "u")
        expected = torch.tensor([3.0, 4.0]).double() / math.sqrt(2)
        torch.testing.assert_close(trace.outputs, expected.expand(3, 2, 2))
        torch.testing.assert_close(trace.differences[..., 1], torch.full((3, 2), 5 / math.sqrt(2)).double())
        assert not trace.cosines[..., 1].any()
        assert (trace.weights[..., 0] == torch.tensor(scale).double()).all()
        assert (trace.weights[..., 1] == 1).all()
    table = trace.table()
    assert table["c-u"][0] == pytest.approx(5 / math.sqrt(2))
    assert table["calls"].tolist() == [2, 2, 2, 0]


def test_calls_that_are_not_made_have_no_numbers_and_further_ones_have_names():
    plan = fd.plan("euler", FLOW, 6)
    given = {"uncond": {"y": 0.4}, "guidance_mode": "calls"}
    trace = fd.trace(velocity, plan, noise(2, 3), guidance=fg.CFG(3.0, interval=(0.3, 2.0)), **given)
    made = np.array([0.3 <= row.sigma / max(row.alpha, 1e-9) <= 2.0 for row in plan.rows])
    assert (~trace.outputs[:, 0, 1].isnan().numpy()).tolist() == made.tolist()
    assert (trace.evaluations == torch.tensor(made.astype(int) + 1)).all()
    terms = fg.Terms(2.0, terms=[fg.Term(1.0, {"y": -0.3})])
    trace = fd.trace(velocity, plan, noise(2, 3), guidance=terms, **given)
    assert trace.output_names == ("c", "u", "c_2")
    assert not trace.differences[..., 2].isnan().any()


def test_what_is_not_finite_is_named_by_its_first_step_and_sample():
    def model(x: Tensor, t: Tensor) -> Tensor:
        y = velocity(x, t)
        if float(t[0]) < 0.6:
            y[2, 1] = math.inf
        return y

    plan = fd.plan("dpmpp_2m", FLOW, 5, grid=[1.0, 0.8, 0.5, 0.4, 0.2])
    trace = fd.trace(model, plan, noise(4, 3))
    assert trace.first_not_finite == (2, 2)
    assert trace.finite.all(0).tolist() == [True, True, False, True]
    assert "not finite: first in step 2, sample 2" in str(trace)
    assert np.isfinite(trace.table()["x"]).all() or trace.table()["finite"][-1] == 0.75


def test_a_saved_trace_comes_back_bit_for_bit(tmp_path):
    plan = fd.plan("dpmpp_2m", FLOW, 4)
    given = {"guidance": 2.0, "uncond": {"y": 0.4}, "guidance_mode": "calls"}
    trace = fd.trace(velocity, plan, noise(3, 5, dtype=torch.bfloat16), **given)
    trace.save(tmp_path / "run.safetensors")
    again = fd.Trace.load(tmp_path / "run.safetensors")
    assert (again.plan, again.output_names, again.reference) == (trace.plan, trace.output_names, trace.reference)
    for name in TENSORS:
        first, second = getattr(trace, name), getattr(again, name)
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.contiguous().view(torch.uint8).equal(second.view(torch.uint8)), name
    assert str(again) == str(trace)


def test_a_file_that_is_no_trace_is_named(tmp_path):
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.safetensors"
    damaged.write_bytes(b"not a file of tensors")
    save_file({"x": torch.zeros(1)}, other)
    for path in (damaged, other):
        with pytest.raises(ValueError, match=f"{path.name}: not a trace"):
            fd.Trace.load(path)
    with pytest.raises(FileNotFoundError):
        fd.Trace.load(tmp_path / "none.safetensors")


def test_tensors_of_a_few_samples_are_kept_and_numbers_of_all():
    plan = fd.plan("dpmpp_2m", FLOW, 4)
    trace = fd.trace(velocity, plan, noise(6, 5), keep=2)
    assert trace.x.shape == (5, 2, 5)
    assert trace.x0.shape == trace.eps.shape == (4, 2, 5)
    assert trace.error.shape == trace.change.shape == (4, 6)
    assert trace.deviation.shape == (5, 2)
    assert fd.trace(velocity, plan, noise(6, 5)).x.shape[1] == 6
    assert fd.trace(velocity, plan, noise(9, 3, 100, 100)).x.shape[1] == 8
    assert np.isnan(fd.trace(velocity, plan, noise(2, 5), keep=0).table()["deviation"]).all()


def test_particles_that_change_places_have_no_angle_there():
    plan = fd.plan("euler_ancestral", FLOW, 12)
    seen = fd.Observation(lambda x: x, torch.full((1, 3), 3.0), noise=0.05)
    trace = fd.trace(velocity, plan, noise(16, 3), seeds=range(16), observation=seen, particles=16)
    x, particles = fd.sample(
        velocity, plan, trace.x[0] / plan.init_scale, seeds=range(16), observation=seen, particles=16
    )
    assert torch.equal(trace.result, x)
    resampled = (particles.effective[1:, 0] < 8).tolist()  # no path leads to the first row
    assert [bool(moved.isnan().any()) for moved in trace.change[1:]] == resampled
    assert bool(trace.angle[1:-1].isnan().any()) == any(resampled)
    assert trace.error.isnan().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": "guess"}, "reference: expected 'estimate' or 'measured'"),
        ({"reference": "measured"}, "schedule: reference='measured' needs"),
        ({"schedule": FLOW}, "schedule: it is read for reference='measured' alone"),
        ({"reference": "measured", "schedule": fd.Schedule.edm()}, "schedule: the plan was made for one with"),
        ({"reference": "measured", "schedule": FLOW, "substeps": 0}, "substeps: expected a whole number >= 1"),
        ({"keep": -1}, "keep: expected a number of samples >= 0"),
        ({"guidance": 2.0}, "uncond: guidance needs"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        fd.trace(velocity, fd.plan("ddim", FLOW, 3), noise(2, 3), **options)


def test_measured_errors_are_for_plans_without_noise_and_runs_without_mask():
    measured = {"reference": "measured", "schedule": FLOW}
    with pytest.raises(ValueError, match="reference: 'measured' is for plans that draw no noise"):
        fd.trace(velocity, fd.plan("euler_ancestral", FLOW, 3), noise(2, 3), **measured)
    x = noise(2, 3)
    with pytest.raises(ValueError, match="reference: 'measured' is for runs without mask"):
        fd.trace(velocity, fd.plan("ddim", FLOW, 3), x, image=x, mask=x > 0, **measured)
    with pytest.raises(TypeError, match="did you mean reference"):
        fd.trace(lambda x, t, **kwargs: x, fd.plan("ddim", FLOW, 3), x, referense="estimate")

"""clamp and threshold bound x0 whatever form a plan keeps its outputs in, and change nothing else of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import indexed

import fastdiff as fd
from fastdiff.ops import registry
from fastdiff.plans.prediction import convert
from fastdiff.sampling.run import Run

VP, FLOW, EDM = fd.Schedule.scaled_linear(), fd.Schedule.flow(), fd.Schedule.edm()
CASES = [
    *[(name, {}, VP, "epsilon") for name in ("dpm_solver_2m", "dpm_solver_3s", "deis", "ipndm", "dpm_solver_v3")],
    *[(name, {}, VP, "v_prediction") for name in ("pndm", "plms", "lms", "gradient_estimation", "deis_rhoab")],
    ("unipc", {"form": "noise"}, VP, "sample"), ("dpmpp_2m_sde", {"form": "noise"}, VP, "epsilon"),
    ("lms", {}, EDM, "sample"), ("lms", {}, FLOW, "flow_prediction"), ("heun", {"clean_end": "heun"}, FLOW, None),
    ("dpmpp_2m", {}, VP, "epsilon"), ("dpm_solver_2m", {"invert": True}, VP, "epsilon"),
]  # fmt: skip


def wide(x, t, shift=0.0):
    return 2.5 * torch.sin(1.3 * x + t.view(-1, *[1] * (x.ndim - 1)).to(x)) + shift


def bounded(plan: fd.Plan, model, bound):
    """The model whose x0 is bounded by hand, for one run of the plan."""
    rows = iter(plan.rows)

    def call(x, t):
        row, m = next(rows), model(x, t)
        if row.sigma == 0:
            return m
        p_x, p_m = convert(plan.prediction, "data", row.alpha, row.sigma)
        return (bound(p_x * x + p_m * m) - p_x * x) / p_m

    return call


def thresholded(x0):
    s = torch.quantile(x0.abs(), 0.9, dim=1, keepdim=True).clamp(1.0, 2.0)
    return x0.clamp(-s, s) / s


@pytest.mark.parametrize("mode", [None, "batch", "calls"])
@pytest.mark.parametrize(("solver", "options", "schedule", "prediction"), CASES)
def test_a_bound_on_x0_is_that_of_the_model_whose_x0_is_bounded(solver, options, schedule, prediction, mode):
    plan = fd.plan(solver, schedule, 6, grid="logsnr", prediction=prediction, **options)
    noise = 3 * torch.randn(2, 40, dtype=torch.float64)
    shifts = {"uncond": {"shift": torch.full((2, 1), 0.4).double()}, "shift": torch.zeros(2, 1).double()}
    guidance = {} if mode is None else {"guidance": 2.5, "guidance_mode": mode, **shifts}

    def guided(x, t):
        return wide(x, t) if mode is None else 2.5 * wide(x, t) - 1.5 * wide(x, t, shifts["uncond"]["shift"])

    for limits, bound in (
        ({"clamp": 0.8}, lambda x0: x0.clamp(-0.8, 0.8)),
        ({"threshold": 0.9, "threshold_limit": 2.0}, thresholded),
    ):
        expected = fd.sample(bounded(plan, guided, bound), plan, noise, seeds=[1, 2])
        ours = fd.sample(wide, plan, noise, seeds=[1, 2], **guidance, **limits)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(
    st.sampled_from([s for s in fd.solvers() if s.order]), st.sampled_from([VP, FLOW, EDM]), st.integers(1, 8),
    st.sampled_from(["logsnr", "time"]), st.floats(0.1, 3.0),
)  # fmt: skip
def test_every_steps_x0_is_within_the_clamp(solver, schedule, steps, grid, clamp):
    plan = fd.plan(solver.name, schedule, steps, grid=grid, prediction="v_prediction")
    noise = torch.linspace(-2, 2, 10, dtype=torch.float64).view(2, 5)
    for step in fd.iter_sample(wide, plan, noise, clamp=clamp, seeds=[1, 2]):
        # Where eps is kept, x0 comes back through a division by alpha.
        assert float(step.x0.abs().max()) <= clamp + 1e-11 * max(1.0, float(step.x.abs().max())) / max(step.alpha, 1e-2)


def test_a_clamp_that_binds_nowhere_changes_nothing():
    plan, noise = fd.plan("dpm_solver_3m", VP, 7, grid="logsnr"), torch.randn(2, 6, dtype=torch.float64)
    free = fd.sample(indexed, plan, noise)
    torch.testing.assert_close(fd.sample(indexed, plan, noise, clamp=1e9), free, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("solver", "launches"), [("dpmpp_2m", 1), ("dpm_solver_2m", 2)])
def test_only_rows_of_another_form_take_a_second_launch(solver, launches):
    plan, count = fd.plan(solver, VP, 5, grid="logsnr", final_sigma="sigma_min"), 0
    kernel = registry.choose("solver_step", registry.CallSpec("cpu", torch.float32, (2, 6)))

    def counted(*call):
        nonlocal count
        count += 1
        kernel(*call)

    run = Run(plan, torch.randn(2, 6), model_dtype=torch.float32, clamp=0.5, step=counted)
    for i in range(plan.nfe):
        run.apply(i, torch.randn(2, 6))
    assert count == launches * plan.nfe

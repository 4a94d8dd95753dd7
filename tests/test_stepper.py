"""A run that the caller drives draws the samples of fd.sample bit for bit, asking for each evaluation once."""

import pytest
import torch
from linear_gaussian import MATRICES, NOISE, SIZE, measurement
from torch import Tensor

import fastdiff as fd

VP, FLOW = fd.Schedule.scaled_linear(), fd.Schedule.flow()
SHAPE = (3, 5, 4)
SEEDS = [11, 12, 13]


def model(x: Tensor, t: Tensor, c: Tensor | float = 0.5, **more: object) -> Tensor:
    """Depends on all it is given; t in training indices or in [0, 1]."""
    c = c.to(x.dtype) if isinstance(c, Tensor) else torch.tensor(c)
    return torch.sin(1.3 * x + t.view(-1, *[1] * (x.ndim - 1)).to(x.dtype) / 300) + c.view(-1, *[1] * (x.ndim - 1)) * x


def finished(s: fd.Stepper, asks: list[int] | None = None) -> Tensor:
    while not s.done:
        if asks is not None:
            asks.append(s.i)
        with torch.enable_grad():
            m = model(s.model_input, s.t, **s.conditions)
        s.advance(m)
    return s.x


@pytest.mark.parametrize("entry", fd.solvers(), ids=lambda entry: entry.name)
def test_every_solver_draws_the_same_samples(entry):
    plan = fd.plan(entry.name, VP, 6) if entry.name != "dpm_solver_v3" else fd.plan("unipc", VP, 6)
    noise = torch.randn(SHAPE)
    asks: list[int] = []
    x = finished(fd.stepper(plan, noise, seeds=SEEDS, c=0.1), asks)
    assert torch.equal(x, fd.sample(model, plan, noise, seeds=SEEDS, c=0.1))
    assert asks == list(range(plan.nfe))


CFG = {"uncond": {"c": torch.zeros(3)}, "c": torch.tensor([0.1, 0.5, 0.9])}
OPTIONS = {
    "guidance": {"guidance": 3.0, **CFG},
    "guidance of each sample": {"guidance": torch.tensor([1.5, 2.0, 4.0]), **CFG},
    "APG": {"guidance": fd.guidance.APG(3.0), **CFG},
    "CFG++": {"guidance": fd.guidance.CFGpp(0.6), **CFG},
    "an interval": {"guidance": fd.guidance.CFG(3.0, interval=(0.3, 3.0)), **CFG},
    "another network": {"guidance": fd.guidance.Autoguidance(2.0, weak=lambda x, t, c: 0.9 * model(x, t, c)), "c": 0.3},
    "clamp": {"clamp": 0.8},
    "threshold": {"threshold": 0.9, "guidance": 3.0, **CFG},
    "image": {"image": torch.ones(SHAPE)},
    "mask": {"image": torch.ones(SHAPE), "mask": torch.arange(4) < 2},
    "model_dtype": {"model_dtype": torch.bfloat16},
    "shard": {"shard": fd.Sharded(1, 5)},
    "correction": {"correction": lambda step: 0.9 * step.denoised + 0.1 * step.vjp(step.denoised), "c": 0.3},
}


@pytest.mark.parametrize("solver", ["unipc", "midpoint", "dpmpp_2m_sde"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_sample_draws_the_same_samples(name, solver):
    options, noise = OPTIONS[name], torch.randn(SHAPE)
    plan = fd.plan(solver, VP, 5, **({} if solver == "midpoint" else {"grid": "logsnr"}))
    if name == "CFG++" and solver == "dpmpp_2m_sde":
        plan = fd.plan("ddim", VP, 5, eta=1.0)
    asks: list[int] = []
    x = finished(fd.stepper(plan, noise, seeds=SEEDS, **options), asks)
    assert torch.equal(x, fd.sample(model, plan, noise, seeds=SEEDS, **options).to(x.dtype))
    assert asks == list(range(plan.nfe))


@pytest.mark.parametrize("name", ["guidance", "APG", "an interval"])
def test_with_calls_a_row_asks_once_for_each_output(name):
    options, noise = OPTIONS[name] | {"guidance_mode": "calls"}, torch.randn(SHAPE)
    plan = fd.plan("unipc", VP, 5)
    asks: list[int] = []
    x = finished(fd.stepper(plan, noise, **options), asks)
    assert torch.equal(x, fd.sample(model, plan, noise, **options))
    evaluations = [step.evaluations for step in fd.iter_sample(model, plan, noise, **options)]
    assert asks == [i for i, count in enumerate(evaluations) for _ in range(count)]


def test_rows_that_ask_nothing_are_run_with_the_one_before():
    never = fd.guidance.ZeroStar(3.0, zero_steps=2)
    plan, noise = fd.plan("euler", FLOW, 5), torch.randn(SHAPE)
    asks: list[int] = []
    x = finished(fd.stepper(plan, noise, guidance=never, **CFG), asks)
    assert torch.equal(x, fd.sample(model, plan, noise, guidance=never, **CFG))
    assert asks == [2, 3, 4]


def test_the_state_is_that_of_a_watched_run():
    plan, noise = fd.plan("heun", VP, 4), torch.randn(SHAPE)
    s = fd.stepper(plan, noise)
    assert (s.i, s.n, len(s), s.done, s.step) == (0, plan.nfe, plan.nfe, False, None)
    for step in fd.iter_sample(model, plan, noise):
        assert torch.equal(s.t, torch.full((3,), step.t))
        x = s.advance(model(s.model_input, s.t))
        assert torch.equal(x, step.x)
        assert torch.equal(s.x0, step.x0)
        assert (s.i, len(s), s.step.accepted) == (step.i + 1, step.n - step.i - 1, step.accepted)
    assert s.done


@pytest.mark.parametrize("correction", ["proximal", "moment"])
def test_an_observation_corrects_as_in_sample(correction):
    observed = fd.Observation(MATRICES["mask"], measurement(MATRICES["mask"]), NOISE)
    plan, noise = fd.plan("dpmpp_2m", VP, 6), torch.randn(3, SIZE, dtype=torch.float64)
    s = fd.stepper(plan, noise, observation=observed, correction=correction)
    assert s.model_input.requires_grad == (correction == "moment")
    for step in fd.iter_sample(model, plan, noise, observation=observed, correction=correction):
        s.advance(model(s.model_input, s.t))
        assert torch.equal(s.x, step.x)
        assert torch.equal(s.residual, step.residual)


def test_particles_are_weighted_as_in_sample():
    observed = fd.Observation(MATRICES["mask"], measurement(MATRICES["mask"]), NOISE)
    plan, noise = fd.plan("ddim", VP, 6, eta=1.0), torch.randn(4, SIZE, dtype=torch.float64)
    options = {"observation": observed, "correction": "moment", "particles": 4, "seeds": range(4)}
    s = fd.stepper(plan, noise, **options)
    expected, particles = fd.sample(model, plan, noise, **options)
    assert torch.equal(finished(s), expected)
    assert torch.equal(s.particles.weights, particles.weights)


def test_a_correction_that_differentiates_needs_the_outputs_graph():
    s = fd.stepper(fd.plan("ddim", VP, 4), torch.randn(SHAPE), correction=lambda step: step.vjp(step.denoised))
    with pytest.raises(ValueError, match="correction: it takes gradients through the model"):
        s.advance(model(s.model_input, s.t).detach())
    with pytest.raises(RuntimeError, match="after the error at row 0"):
        s.advance(torch.zeros(SHAPE))


def test_a_hard_coded_euler_loop_takes_any_plan():
    """x += v dt with v = (next x of the plan - x) / dt: the loop's own times and step do not matter."""
    plan, noise = fd.plan(None, FLOW, 6), torch.randn(SHAPE, dtype=torch.float64)
    s = fd.stepper(plan, noise)

    def velocity(x: Tensor, dt: float) -> Tensor:
        m = model(s.model_input, s.t)
        before = s.x.clone()
        return (s.advance(m) - before) / dt

    x, dt = noise.clone(), -1 / 6
    for _ in range(6):
        x += velocity(x, dt) * dt
    assert torch.allclose(x, fd.sample(model, plan, noise), atol=1e-14)


def test_a_wrong_output_is_named_and_can_be_given_again():
    plan, noise = fd.plan("unipc", VP, 3), torch.randn(SHAPE)
    s = fd.stepper(plan, noise, guidance=2.0, **CFG)
    for wrong, error in (
        (torch.zeros(SHAPE), ValueError),
        (None, TypeError),
        (torch.zeros(6, 5, 4, dtype=torch.int64), TypeError),
        (torch.zeros(6, 5, 4, device="meta"), ValueError),
    ):
        with pytest.raises(error, match="output"):
            s.advance(wrong)
    assert torch.equal(finished(s), fd.sample(model, plan, noise, guidance=2.0, **CFG))
    with pytest.raises(RuntimeError, match="after its last row"):
        s.advance(torch.zeros(6, 5, 4))
    with pytest.raises(RuntimeError, match="after its last row"):
        _ = s.model_input


@pytest.mark.parametrize("name", ["graph", "parallel", "callback", "progress", "return_trajectory"])
def test_options_that_need_the_model_are_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match=f"{name}: not for a run that the host drives; "):
        fd.stepper(fd.plan("ddim", VP, 3), torch.randn(SHAPE), **{name: True})


def test_wrong_arguments_are_named():
    plan, noise = fd.plan("ddim", VP, 3), torch.randn(SHAPE)
    with pytest.raises(ValueError, match="guidance_mode: 'ranks'"):
        fd.stepper(plan, noise, guidance=2.0, uncond={}, guidance_mode="ranks")
    with pytest.raises(ValueError, match="cheap calls"):
        fd.stepper(plan.with_calls(["full", "cheap", "full"]), noise)
    with pytest.raises(TypeError, match="did you mean guidance"):
        fd.stepper(plan, noise, guidence=2.0)
    with pytest.raises(TypeError, match="plan: expected"):
        fd.stepper("unipc", noise)
    with pytest.raises(RuntimeError, match="no row has been run"):
        _ = fd.stepper(plan, noise).x0

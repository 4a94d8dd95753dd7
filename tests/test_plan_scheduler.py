"""PlanScheduler runs a plan as `fastdiff.sample` does: whole or from the middle, and only where it is the model's."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_variants import moved
from torch import Tensor

import fastdiff as fd
from fastdiff.plans.prediction import convert

FLOW, VP = fd.Schedule.flow(3.0), fd.Schedule.scaled_linear()
ZERO = VP.zero_terminal_snr()
PREDICTIONS = {"flow": "flow_prediction", "vp": "v_prediction"}
MEAN, VARIANCE = 0.7, 0.4
ODE_SOLVERS = [s.name for s in fd.solvers() if not s.stochastic and s.order and s.name != "dpm_solver_v3"]


def make_plan(solver: str = "dpmpp_2m", schedule: fd.Schedule = VP, steps: int = 6, **options: object) -> fd.Plan:
    return fd.plan(solver, schedule, steps, prediction=PREDICTIONS[schedule.kind], **options)


def gaussian(schedule: fd.Schedule, variance: float = VARIANCE) -> Callable[[Tensor, Tensor], Tensor]:
    """What the perfect model of data N(MEAN, variance) predicts, t in the schedule's unit."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        point = schedule.at(float(t.reshape(-1)[0]))
        alpha, sigma = float(point.alpha), float(point.sigma)
        x0 = MEAN + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * MEAN)
        eps = (x - alpha * x0) / sigma
        return eps - x0 if schedule.kind == "flow" else alpha * eps - sigma * x0

    return model


def noise(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(schedule: fd.Schedule) -> float:
    return 1000.0 if schedule.kind == "flow" else 1.0


def steps_of(
    scheduler: fd.PlanScheduler, schedule: fd.Schedule, x: Tensor, begin: int = 0, scaled: bool = True
) -> list[fd.schedulers.fitted.PlanSchedulerOutput]:
    """A pipeline's loop from timesteps[begin] on."""
    model, made = gaussian(schedule), []
    for t in scheduler.timesteps[begin:]:
        read = scheduler.scale_model_input(x, t) if scaled else x
        made.append(scheduler.step(model(read, t / unit(schedule)), t, x))
        x = made[-1].prev_sample
    return made


# A whole run.


@pytest.mark.parametrize("schedule", [FLOW, VP], ids=["flow", "vp"])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("solver", ["dpmpp_3m", "dpm_solver_2m", "unipc", "heun", "dpmpp_3s", "ipndm", "pndm", "lms"])
def test_a_run_is_that_of_sample_and_gives_x0_in_every_form(solver: str, fitted: bool, schedule: fd.Schedule):
    plan = make_plan(solver, schedule)
    plan = moved(plan, first=True) if fitted else plan
    expected = [(step.x0.clone(), step.x.clone()) for step in fd.iter_sample(gaussian(schedule), plan, noise())]
    scheduler = fd.PlanScheduler(plan)
    made = steps_of(scheduler, schedule, noise() * scheduler.init_noise_sigma)
    for step, (x0, _) in zip(made, expected, strict=True):
        torch.testing.assert_close(step.pred_original_sample, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made[-1].prev_sample, expected[-1][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", [FLOW, ZERO], ids=["flow", "vp"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun"])
def test_a_pipeline_that_never_scales_the_models_input_holds_what_the_model_reads(solver: str, schedule: fd.Schedule):
    """As flow pipelines do; the first row's c_in, on pure noise, is what a model makes of it whose x0 stays."""
    plan = moved(make_plan(solver, schedule), first=True)
    assert plan.rows[0].c_in != 1
    expected = [step.x0.clone() for step in fd.iter_sample(gaussian(schedule), plan, noise())]
    made = steps_of(fd.PlanScheduler(plan), schedule, noise(), scaled=False)
    torch.testing.assert_close(made[-1].prev_sample, fd.sample(gaussian(schedule), plan, noise()), rtol=1e-5, atol=1e-5)
    for step, x0 in zip(made[1:], expected[1:], strict=True):
        torch.testing.assert_close(step.pred_original_sample, x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("schedule", [FLOW, ZERO], ids=["flow", "vp"])
def test_inpainting_is_that_of_sample(schedule: fd.Schedule, scaled: bool):
    """The pipeline puts add_noise of the picture in after every step, and the picture itself in the end."""
    plan = moved(make_plan("dpmpp_3m", schedule), first=True)
    image, eps, model = noise(1), noise(2), gaussian(schedule)
    mask = (noise(3) > 0).double()
    expected = fd.sample(model, plan, eps, image=image, mask=mask)
    scheduler = fd.PlanScheduler(plan)
    times = scheduler.timesteps
    x = scheduler.add_noise(image, eps, times[:1])
    for i, t in enumerate(times):
        m = model(scheduler.scale_model_input(x, t) if scaled else x, t / unit(schedule))
        x = scheduler.step(m, t, x).prev_sample
        known = scheduler.add_noise(image, eps, torch.tensor([times[i + 1]])) if i + 1 < len(times) else image
        x = (1 - mask) * known + mask * x
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_without_scale_model_input_a_first_row_on_no_pure_noise_raises():
    plan = moved(make_plan("dpmpp_2m", FLOW, start=0.5), first=True)
    scheduler = fd.PlanScheduler(plan)
    with pytest.raises(ValueError, match=r"plan: at its first row the model has to read .* call it before the model"):
        scheduler.step(noise(), scheduler.timesteps[0], noise())


def test_attributes_that_pipelines_read():
    scheduler = fd.PlanScheduler(make_plan("euler", FLOW, 4))
    torch.testing.assert_close(scheduler.timesteps, 1000 * scheduler.sigmas[:-1])
    np.testing.assert_allclose(scheduler.sigmas, [1, 0.9, 0.75, 0.5, 0], rtol=1e-6)
    assert (scheduler.order, scheduler.init_noise_sigma, len(scheduler)) == (1, 1.0, 1000)
    assert (scheduler.config.num_train_timesteps, scheduler.config.prediction_type) == (1000, "flow_prediction")
    assert (scheduler.step_index, scheduler.begin_index) == (None, None)
    scheduler.set_begin_index(1)
    scheduler.step(noise(), scheduler.timesteps[1], noise())
    assert (scheduler.step_index, scheduler.begin_index) == (2, 1)
    vp = fd.PlanScheduler(make_plan("ddim", VP, 4, grid="trailing"))
    assert vp.timesteps.tolist() == [999, 749, 499, 249]
    own = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    own.set_timesteps(4)
    torch.testing.assert_close(vp.sigmas, own.sigmas, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_results_have_the_samples_dtype(dtype: torch.dtype):
    scheduler = fd.PlanScheduler(make_plan("dpm_solver_2m"))
    x = noise().to(dtype)
    step = scheduler.step(x.float(), scheduler.timesteps[0], x)
    assert (step.prev_sample.dtype, step.pred_original_sample.dtype) == (dtype, dtype)


def test_step_takes_a_generator_and_no_word_it_does_not_know():
    scheduler = fd.PlanScheduler(make_plan())
    assert len(scheduler.step(noise(), scheduler.timesteps[0], noise(), torch.Generator(), return_dict=False)) == 2
    with pytest.raises(TypeError, match="generater"):
        scheduler.step(noise(), scheduler.timesteps[1], noise(), generater=None)


# From the middle.


@pytest.mark.parametrize("schedule", [FLOW, VP], ids=["flow", "vp"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpm_solver_2m", "dpmpp_3m", "heun", "dpmpp_2s"])
def test_a_run_from_the_middle_is_that_of_a_plan_with_start(solver: str, schedule: fd.Schedule):
    whole, short = (make_plan(solver, schedule, 8, start=start) for start in (1.0, 0.5))
    if solver == "dpmpp_3m":  # its second step has the derivative of one difference more
        short = make_plan("dpmpp_2m", schedule, 8, start=0.5)
    scheduler, begin = fd.PlanScheduler(whole), whole.nfe - short.nfe
    image, eps = noise(1), noise(2)
    scheduler.set_begin_index(begin)
    x = scheduler.add_noise(image, eps, scheduler.timesteps[begin : begin + 1].repeat(3))
    made = steps_of(scheduler, schedule, x, begin)
    states = [step.x.clone() for step in fd.iter_sample(gaussian(schedule), short, eps, image=image)]
    last = 0 if solver == "dpmpp_3m" else -1
    torch.testing.assert_close(made[last].prev_sample, states[last], rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(st.sampled_from(ODE_SOLVERS), st.sampled_from([FLOW, VP]), st.integers(3, 9), st.integers(0, 99))
def test_a_run_from_any_row_is_exact_where_the_model_says_one_picture(
    solver: str, schedule: fd.Schedule, steps: int, place: int
):
    """All weights on outputs add up: x0 and eps are constant along the way, whatever row the run begins at."""
    plan = make_plan(solver, schedule, steps, final_sigma="sigma_min")
    scheduler, begin = fd.PlanScheduler(plan), place % plan.nfe
    scheduler.set_begin_index(begin)
    model, eps = gaussian(schedule, variance=0.0), noise()
    x = scheduler.add_noise(torch.full_like(eps, MEAN), eps, scheduler.timesteps[begin])
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(model(x, t / unit(schedule)), t, x).prev_sample
    alpha, sigma = plan.end
    torch.testing.assert_close(x, alpha * MEAN + sigma * eps, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("schedule", [FLOW, VP], ids=["flow", "vp"])
@pytest.mark.parametrize("solver", ["unipc", "ipndm", "deis", "dpmpp_3m", "dpmpp_3s", "lms"])
def test_a_run_from_the_middle_converges_as_the_solver_itself_from_there(solver: str, schedule: fd.Schedule):
    """From any row, the middle of a step of several stages among them, it errs no more than four times as much."""

    def error(made: Tensor, start: tuple[float, float], x: Tensor) -> float:
        def spread(alpha: float, sigma: float) -> float:
            return (alpha**2 * VARIANCE + sigma**2) ** 0.5

        exact = MEAN + spread(1, 0) * (x - start[0] * MEAN) / spread(*start)
        return float((made - exact).abs().max())

    plan = make_plan(solver, schedule, 16)
    first = plan.nfe // 2
    eps, image = noise(2), noise(1)
    fresh = make_plan(solver, schedule, 16, start=0.5)
    begun = fresh.start[0] * image + fresh.start[1] * eps
    allowed = 4 * error(fd.sample(gaussian(schedule), fresh, eps, image=image), fresh.start, begun)
    for begin in range(first, first + 3):
        scheduler = fd.PlanScheduler(plan)
        scheduler.set_begin_index(begin)
        x = scheduler.add_noise(image, eps, scheduler.timesteps[begin])
        row = plan.rows[begin]
        made = steps_of(scheduler, schedule, x, begin)[-1].prev_sample
        assert error(made, (row.alpha, row.sigma), x) < allowed


def test_add_noise_is_at_the_rows_level_by_value_by_begin_and_in_the_loop():
    plan = moved(make_plan("dpmpp_2m", FLOW), first=True)
    scheduler, (image, eps) = fd.PlanScheduler(plan), (noise(1), noise(2))

    def expected(i: int) -> Tensor:
        alpha, sigma = plan.point_after(i - 1) if i else plan.start
        scale = plan.rows[i].c_in if 0 < i < plan.nfe else 1.0
        return scale * (alpha * image + sigma * eps)

    times = scheduler.timesteps[[4, 0, 2]]
    rows = torch.stack([expected(i)[k] for k, i in enumerate((4, 0, 2))])
    torch.testing.assert_close(scheduler.add_noise(image, eps, times), rows)
    torch.testing.assert_close(scheduler.scale_noise(image, times, eps), rows)
    with pytest.raises(IndexError, match=r"timestep: expected one of scheduler\.timesteps, got 123"):
        scheduler.add_noise(image, eps, torch.tensor([123.0]))
    scheduler.set_begin_index(2)
    x = scheduler.add_noise(image, eps, scheduler.timesteps[2:3])
    torch.testing.assert_close(x, expected(2))
    for i in (2, 3, 4, 5):
        scheduler.step(noise(), scheduler.timesteps[i], x)
        torch.testing.assert_close(scheduler.add_noise(image, eps, torch.tensor([7.0])), expected(i + 1))
    assert scheduler.add_noise(image.half(), eps.half(), times).dtype == torch.float16


# set_timesteps.


def test_set_timesteps_takes_what_pipelines_hand_on_and_nothing_else():
    scheduler = fd.PlanScheduler(make_plan("euler", FLOW, 5))
    own = scheduler.timesteps.clone(), scheduler.sigmas.clone()
    even = np.linspace(1.0, 1 / 5, 5)
    for call in (
        {}, {"num_inference_steps": 5}, {"sigmas": even, "mu": 1.15}, {"sigmas": even.tolist()},
        {"timesteps": (1000 * even).astype(int)}, {"sigmas": own[1]}, {"sigmas": own[1][:-1].tolist()},
        {"timesteps": own[0]},
    ):  # fmt: skip
        scheduler.set_timesteps(**call)
        assert torch.equal(scheduler.timesteps, own[0])
        assert torch.equal(scheduler.sigmas, own[1])
    with pytest.raises(ValueError, match="num_inference_steps: the plan has 5, got 6; ask for 5, or make a plan of 6"):
        scheduler.set_timesteps(6)
    with pytest.raises(ValueError, match="num_inference_steps: the plan has 5, got 28"):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28), mu=1.15)
    with pytest.raises(ValueError, match="sigmas: a plan has its own"):
        scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.5, 0.2, 0.1])
    with pytest.raises(ValueError, match="timesteps: a plan has its own"):
        scheduler.set_timesteps(timesteps=[999, 700, 500, 200, 100])
    for schedule_of_its_own in ({"sigmas": even}, {"mu": 1.15}):
        with pytest.raises(ValueError, match=r"sigmas: a plan has its own|mu: expected none"):
            fd.PlanScheduler(make_plan("euler", VP, 5)).set_timesteps(**schedule_of_its_own)


@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
def test_changed_times_raise(name: str):
    for in_place in (True, False):
        scheduler = fd.PlanScheduler(make_plan())
        scheduler.set_timesteps(6)
        t = scheduler.timesteps[2].clone()
        if in_place:
            getattr(scheduler, name)[1] *= 0.9
        else:
            setattr(scheduler, name, getattr(scheduler, name)[1:])
        with pytest.raises(ValueError, match=f"{name}: a plan's cannot be changed"):
            scheduler.step(noise(), t, noise())


# Whose plan it is.

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
HOSTS = {
    "sd": (diffusers.PNDMScheduler(**SD), VP, "epsilon"),
    "sd2": (diffusers.DDIMScheduler(**SD, prediction_type="v_prediction", clip_sample=False), VP, "v_prediction"),
    "zero": (
        diffusers.DDIMScheduler(**SD, prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True),
        VP.zero_terminal_snr(), "v_prediction",
    ),
    "linear": (diffusers.DPMSolverMultistepScheduler(), fd.Schedule.linear(), "epsilon"),
    "cosine": (diffusers.UniPCMultistepScheduler(beta_schedule="squaredcos_cap_v2"), fd.Schedule.cosine(), "epsilon"),
    "sigmoid": (
        diffusers.DDPMScheduler(beta_schedule="sigmoid", clip_sample=False),
        fd.Schedule.from_betas(1e-4 + 0.0199 / (1 + np.exp(-np.linspace(-6, 6, 1000)))), "epsilon",
    ),
    "trained": (
        diffusers.DEISMultistepScheduler(trained_betas=np.linspace(1e-4, 0.03, 500), num_train_timesteps=500),
        fd.Schedule.from_betas(np.linspace(1e-4, 0.03, 500)), "epsilon",
    ),
    "cogvideo": (diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", clip_sample=False), None, ""),
    "flow": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), FLOW, "flow_prediction"),
    "heun": (diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), FLOW, "flow_prediction"),
    "wan": (
        diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
        FLOW, "flow_prediction",
    ),
}  # fmt: skip


def of_host(name: str) -> tuple[object, fd.Plan]:
    host, schedule, prediction = HOSTS[name]
    if schedule is None:
        schedule = fd.Schedule.from_alphas_cumprod(host.alphas_cumprod.double().numpy())
        prediction = host.config.prediction_type
    return host, fd.plan("dpmpp_2m", schedule, 4, prediction=prediction)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HOSTS)
def test_a_pipelines_plan_is_taken_and_its_configuration_kept(name: str, tmp_path):
    host, plan = of_host(name)
    plan.save(tmp_path / "plan.json")
    made = fd.PlanScheduler.from_config(host.config, plan=str(tmp_path / "plan.json"))
    assert made.plan == plan
    kept = {key: value for key, value in host.config.items() if not key.startswith("_")}
    assert {key: made.config[key] for key in kept} == kept
    again = fd.PlanScheduler.from_config(made.config)
    assert (again.plan, {k: v for k, v in again.config.items() if k in kept}) == (plan, kept)
    if name != "trained":  # JSON has no arrays
        made.save_pretrained(tmp_path)
        assert fd.PlanScheduler.from_pretrained(tmp_path).plan == plan
    back = type(host).from_config(made.config)
    assert {key: back.config[key] for key in kept} == kept


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("other", HOSTS)
def test_a_plan_for_another_schedule_or_prediction_raises(name: str, other: str):
    host, own = of_host(name)
    _, plan = of_host(other)
    if plan == own:
        assert fd.PlanScheduler.from_config(host.config, plan=plan).plan == own
        return
    with pytest.raises(ValueError, match=r"plan: for a (model that predicts|variance|flow|schedule)"):
        fd.PlanScheduler.from_config(host.config, plan=plan)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (diffusers.EDMEulerScheduler(), "config: expected a variance-preserving or a flow schedule"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "no plan is for models with invert_sigmas"),
        (diffusers.EulerDiscreteScheduler(**SD, timestep_type="continuous"), "with timestep_type = 'continuous'"),
        (SimpleNamespace(config={"beta_schedule": "steep"}), "expected beta_schedule linear, scaled_linear, sigmoid"),
        (diffusers.DDIMScheduler(**SD, clip_sample=False), "plan: expected one beside the configuration"),
    ],
)
def test_a_configuration_that_no_plan_can_be_compared_with_raises(host: object, words: str):
    given = {} if "beside" in words else {"plan": fd.plan("ddim", VP, 4)}
    with pytest.raises(ValueError, match=words):
        fd.PlanScheduler.from_config(host.config, **given)


def test_what_a_plan_leaves_out_is_said_aloud():
    with pytest.warns(UserWarning, match="clip_sample: the pipeline's scheduler bounds x0, a plan does not"):
        fd.PlanScheduler.from_config(diffusers.DDIMScheduler(**SD).config, plan=fd.plan("ddim", VP, 4))
    plan = fd.plan("euler", fd.Schedule.flow(), 4, prediction="flow_prediction")
    with pytest.warns(UserWarning, match=r"laid with shift 1, the pipeline asks for 3; .* fastdiff.Schedule.flow\(3\)"):
        fd.PlanScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, plan=plan)


def test_a_plan_is_given_as_itself_as_its_file_or_as_its_dict(tmp_path):
    plan = make_plan()
    plan.save(tmp_path / "plan.json")
    for form in (plan, tmp_path / "plan.json", str(tmp_path / "plan.json"), plan.to_dict()):
        scheduler = fd.PlanScheduler(form)
        assert fd.PlanScheduler.from_config(scheduler.config).plan == scheduler.plan == plan
    with pytest.raises(ValueError, match="plan: expected a deterministic one, got one that draws noise"):
        fd.PlanScheduler(make_plan("ddpm"))
    with pytest.raises(TypeError, match=r"config: expected a configuration, such as pipe.scheduler.config"):
        fd.PlanScheduler.from_config(scheduler, plan=plan)
    with pytest.raises(AttributeError):
        scheduler.plan = plan


# Whose run it is.


def whole(scheduler: fd.PlanScheduler, seed: int) -> Tensor:
    return steps_of(scheduler, VP, noise(seed))[-1].prev_sample


def test_a_second_pass_threads_copies_and_interleaved_runs_share_nothing():
    plan = moved(make_plan("unipc", VP), first=True)
    alone = [whole(fd.PlanScheduler(plan), seed) for seed in range(4)]
    shared = fd.PlanScheduler(plan)
    assert torch.equal(whole(shared, 0), alone[0])
    assert torch.equal(whole(shared, 1), alone[1])  # without set_timesteps
    assert torch.equal(whole(copy.deepcopy(shared), 2), alone[2])
    drawn, barrier = {}, threading.Barrier(4)

    def work(seed: int) -> None:
        barrier.wait()
        shared.set_timesteps(6)
        drawn[seed] = whole(shared, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(drawn[seed], alone[seed]) for seed in range(4))
    times, samples = [], [noise(0), noise(1)]
    for _ in samples:
        shared.set_timesteps(6)
        times.append(shared.timesteps)
    for pair in zip(*times, strict=True):
        for k, t in enumerate(pair):
            m = gaussian(VP)(shared.scale_model_input(samples[k], t), t)
            samples[k] = shared.step(m, t, samples[k]).prev_sample
    assert all(torch.equal(samples[k], alone[k]) for k in (0, 1))


def test_a_run_goes_on_after_pickling_in_the_middle():
    plan = moved(make_plan("dpmpp_3m", FLOW), first=False)
    expected = steps_of(fd.PlanScheduler(plan), FLOW, noise())[-1].prev_sample
    scheduler, x, model = fd.PlanScheduler(plan), noise(), gaussian(FLOW)
    for i in range(6):
        t = scheduler.timesteps[i]
        x = scheduler.step(model(x, t / 1000), t, x).prev_sample
        scheduler, x = pickle.loads(pickle.dumps((scheduler, x)))
    assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_step_is_one_graph_and_the_same_numbers(dtype: torch.dtype):
    plan = moved(make_plan("dpm_solver_2m", VP), first=True)

    def run(advance: Callable) -> list[Tensor]:
        scheduler, x, made = fd.PlanScheduler(plan), noise().to(dtype), []
        for t in scheduler.timesteps:
            x, x0 = advance(scheduler, torch.tanh(x), t, x)
            made += [x, x0]
        return made

    def advance(scheduler: fd.PlanScheduler, m: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        x = scheduler.scale_model_input(x, t)
        return scheduler.step(m, t, x, return_dict=False)

    compiled = run(torch.compile(advance, fullgraph=True, backend="aot_eager"))
    for made, expected in zip(compiled, run(advance), strict=True):
        assert torch.equal(made, expected)


def test_rows_of_a_plan_keep_their_numbers():
    """The plan itself is never changed: what runs is made from it."""
    plan = moved(make_plan("unipc", VP), first=True)
    before = copy.deepcopy(plan)
    scheduler = fd.PlanScheduler(plan)
    steps_of(scheduler, VP, noise(), begin=3)
    assert plan == before == scheduler.plan
    assert replace(plan) == before


def test_x0_is_that_of_the_prediction():
    """Of eps at alpha, sigma: (x - sigma eps) / alpha; every shipped plan has D = eps."""
    plan = fd.plan("dpm_solver_2m", VP, 5)
    assert {row.form for row in plan.rows} == {"noise"}
    scheduler, x, m = fd.PlanScheduler(plan), noise(1), noise(2)
    p_x, p_m = convert("epsilon", "data", plan.rows[0].alpha, plan.rows[0].sigma)
    made = scheduler.step(m, scheduler.timesteps[0], x)
    torch.testing.assert_close(made.pred_original_sample, p_x * x + p_m * m)

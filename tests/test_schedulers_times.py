"""Times that come twice, times given by value, grids of very many steps, and schedules without any signal."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scheduler_loops import draws, loop, model, start
from scheduler_protocols import STANDARD

from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torchsde's, on its own rounding
]
LAMBDA = [f"{name}Scheduler" for name in (
    "DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverMultistepInverse", "DEISMultistep", "UniPCMultistep",
)]  # fmt: skip
LEVELS = [f"{name}DiscreteScheduler" for name in ("Euler", "EulerAncestral", "Heun", "KDPM2", "LMS")]
WITHOUT_BETAS = ("Flow", "EDM", "IPNDM", "Cosine", "CMStochastic", "LTX", "MiniMax")
X = torch.ones(1, 1, 1, 1)
STEEP = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
AS_GIVEN = {"views": lambda t: t, "numbers": lambda t: t.tolist(), "copies": lambda t: t.clone()}


def make(name: str, **options: object) -> object:
    options |= {"noise_sampler_seed": 1} if name == "DPMSolverSDEScheduler" else {}
    return getattr(schedulers, name)(**options)


@pytest.mark.parametrize("given", AS_GIVEN)
def test_a_run_begins_at_the_first_step_although_its_time_comes_nine_times(given):
    """As in diffusers where a pipeline calls set_begin_index(0)."""
    scheduler, y = make("DPMSolverMultistepScheduler", **STEEP), X
    scheduler.set_timesteps(20)
    for t in AS_GIVEN[given](scheduler.timesteps):
        y = scheduler.step(torch.tanh(y), t, y).prev_sample
    assert float(y) == pytest.approx(2896.305, rel=1e-5)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
@settings(max_examples=10)
@given(place=st.integers(0, 19))
def test_a_time_its_copy_and_its_number_begin_at_the_same_step(name, place):
    found = []
    for as_given in AS_GIVEN.values():
        scheduler = make(name, **STEEP)
        scheduler.set_timesteps(20)
        t = as_given(scheduler.timesteps)[place]
        found.append(scheduler.step(torch.tanh(scheduler.scale_model_input(X, t)), t, X).prev_sample)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", STANDARD)
def test_two_steps_at_one_time_are_the_same_by_view_and_by_copy(name):
    found, scheduler = [], make(name)
    for as_given in AS_GIVEN.values():
        scheduler.set_timesteps(12)
        t, x = as_given(scheduler.timesteps)[4], start(None)
        for _ in range(2):
            torch.manual_seed(0)
            y = scheduler.step(model(x, torch.as_tensor(t, dtype=torch.float64)), t, x, return_dict=False)[0]
        found.append(y)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("given", AS_GIVEN)
def test_a_step_too_many_is_an_error(name, given):
    scheduler, x = make(name), start(None)
    scheduler.set_timesteps(4)
    times = AS_GIVEN[given](scheduler.timesteps)
    for t in times:
        x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, t)), t, x).prev_sample
    with pytest.raises(IndexError, match="step: expected 4 steps"):
        scheduler.step(x, times[-1], x)


@pytest.mark.parametrize("options", [{}, {"timestep_spacing": "trailing"}, {"num_train_timesteps": 50}], ids=str)
@pytest.mark.parametrize("name", LAMBDA)
def test_as_many_steps_as_training_times_and_more(name, options):
    """linspace rounds two of a thousand times to 500."""
    n = options.get("num_train_timesteps", 1000)
    if "Singlestep" in name:
        options = {key: value for key, value in options.items() if key != "timestep_spacing"}
    scheduler = make(name, **options)
    scheduler.set_timesteps(n)
    x, largest = loop(scheduler)
    assert x.isfinite().all()
    assert largest < 1e3


@pytest.mark.parametrize("name", [*LAMBDA, "DDIMScheduler", *LEVELS])
@settings(max_examples=6, phases=[Phase.generate])
@given(data=st.data())
def test_times_that_repeat_are_steps_that_change_nothing(name, data):
    """A run on times with repetitions is the run on them without, but for the noise that a step draws."""
    times = sorted(data.draw(st.lists(st.integers(1, 998), min_size=2, max_size=5, unique=True)), reverse=True)
    twice = data.draw(st.sampled_from(times[:-1]))
    repeated = sorted([*times, twice], reverse=True)
    options = {"lower_order_final": False} if name in LAMBDA else {}
    if "Inverse" in name:
        times, repeated = times[::-1], repeated[::-1]
    images, scheduler = [], make(name, **options)
    for listed in (times, repeated):
        scheduler.set_timesteps(timesteps=listed)
        images.append(loop(scheduler)[0])
    assert images[1].isfinite().all()
    if name in LAMBDA and "Singlestep" not in name:  # whose steps are blocks of a fixed size
        torch.testing.assert_close(*images, rtol=1e-3, atol=1e-3 * float(images[0].abs().max()))


@pytest.mark.parametrize("name", [n for n in STANDARD if not n.startswith(WITHOUT_BETAS)])
def test_every_class_is_finite_on_every_schedule_of_betas(name):
    for betas in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        scheduler = make(name, beta_schedule=betas)
        for steps in (1, 4, 20):
            scheduler.set_timesteps(max(steps, 4) if name == "PNDMScheduler" else steps)
            assert scheduler.timesteps.double().isfinite().all()
            x, _ = loop(scheduler)
            assert x.isfinite().all(), (betas, steps)


def test_ancestral_steps_have_their_middle_at_the_next_level():
    scheduler = make("KDPM2AncestralDiscreteScheduler", beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == pytest.approx([999, 666, 666, 333, 333, 0, 0], abs=1e-4)
    for values in (scheduler.sigmas_up, scheduler.sigmas_down, scheduler.sigmas_interpol):
        assert values.isfinite().all()


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_one_step_has_nothing_to_stretch_to_its_terminal(name):
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if name.startswith("UniPC") else {}
    scheduler = make(name, shift_terminal=0.1, **flow)
    scheduler.set_timesteps(1)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    scheduler.set_timesteps(3)
    assert float(scheduler.sigmas[-2]) == pytest.approx(0.1)


NO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(("begin", "right"), [(0, 0.8056), (2, 0.8912)])
def test_noise_predictions_begin_without_signal_where_x0_is_bounded(begin, right):
    scheduler, y = make("DDIMScheduler", **NO_SIGNAL), X
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps[begin:]:
        y = scheduler.step(0.1 * y, t, y).prev_sample
    assert float(y) == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_from_no_signal_bounded_x0_is_as_in_diffusers(name):
    images = []
    for library in (schedulers, diffusers):
        scheduler = getattr(library, name)(**NO_SIGNAL, clip_sample=True)
        scheduler.set_timesteps(8)
        images.append(loop(scheduler)[0])
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)
    scheduler = make(name, **NO_SIGNAL, thresholding=True, sample_max_value=1.5)  # NaN in diffusers: inf - inf
    scheduler.set_timesteps(8)
    assert loop(scheduler)[0].isfinite().all()


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"])
def test_a_step_without_signal_that_is_not_taken_is_not_judged(name):
    """Image to image begins behind it; the step itself is refused where nothing bounds x0."""
    images = []
    for library in (schedulers, diffusers):
        scheduler = getattr(library, name)(**NO_SIGNAL, clip_sample=False)
        scheduler.set_timesteps(8)
        images.append(loop(scheduler, begin=2)[0])
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)
    scheduler = make(name, **NO_SIGNAL, clip_sample=False)
    scheduler.set_timesteps(8)
    with pytest.raises(ValueError, match="zero signal-to-noise ratio"):
        loop(scheduler)


def test_ddpm_steps_at_any_time_of_a_schedule_without_signal():
    x = 0.1 * X
    for t in (0, 500):
        torch.manual_seed(0)
        ours = make("DDPMScheduler", rescale_betas_zero_snr=True).step(x, t, X).prev_sample
        torch.manual_seed(0)
        theirs = diffusers.DDPMScheduler(rescale_betas_zero_snr=True).step(x, t, X).prev_sample
        torch.testing.assert_close(ours, theirs)


def test_ddpm_steps_at_the_time_that_it_is_given_where_others_are_left_out():
    images = []
    for library in (schedulers, diffusers):
        scheduler, x, generator = library.DDPMScheduler(), X, torch.Generator().manual_seed(0)
        scheduler.set_timesteps(10)
        for t in scheduler.timesteps[::3]:
            x = scheduler.step(0.1 * x, t, x, generator=generator).prev_sample
        images.append(x)
    torch.testing.assert_close(*images)


def test_data_without_noise_have_none_for_a_model_of_data():
    scheduler = make("DDIMInverseScheduler", prediction_type="sample")
    scheduler.set_timesteps(5)
    step = scheduler.step(0.1 * X, scheduler.timesteps[0], X)
    alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])]) ** 0.5
    assert float(step.prev_sample) == pytest.approx(0.1 * alpha)


@pytest.mark.parametrize("name", ["EulerDiscrete", "LMSDiscrete", "HeunDiscrete", "EDMEuler", "EDMDPMSolverMultistep"])
def test_a_models_input_is_scaled_without_set_timesteps_too(name):
    ours, theirs = (getattr(library, f"{name}Scheduler")() for library in (schedulers, diffusers))
    t = theirs.timesteps[0]
    torch.testing.assert_close(ours.scale_model_input(X, t), theirs.scale_model_input(X, t))


def test_ddim_ends_its_steps_where_diffusers_does_and_at_the_next_time_where_it_is_given_times():
    """T // n before its own time, which linspace and trailing grids miss; listed with the deviations as kept."""
    scheduler = make("DDIMScheduler", timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(600)
    assert int(scheduler.timesteps[0] - scheduler.timesteps[1]) == 2 != 1000 // 600
    errors = []
    alphas = scheduler.alphas_cumprod.double()
    spread = (0.25 * alphas + 1 - alphas).sqrt()  # of data N(0, 1/4), whose flow is known
    for grid in ({"num_inference_steps": 600}, {"timesteps": scheduler.timesteps.tolist()}):
        scheduler.set_timesteps(**grid)
        x = first = start(None, dtype=torch.float64)
        for t in scheduler.timesteps:
            x = scheduler.step((1 - alphas[t]).sqrt() * x / spread[t] ** 2, t, x, return_dict=False)[0]
        errors.append(float((x / (first * 0.5 / spread[scheduler.timesteps[0]]) - 1).abs().max()))
    assert errors[0] > 0.3 > 0.02 > errors[1]


def test_drawing_classes_alone_read_the_generator_but_all_take_it():
    for name in STANDARD:
        assert draws(getattr(schedulers, name)), name


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_largest_limit_below_1_is_the_limit(name):
    images = []
    for library in (schedulers, diffusers):
        scheduler = getattr(library, name)(thresholding=True, sample_max_value=0.6)
        scheduler.set_timesteps(10)
        images.append(loop(scheduler)[0])
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_a_bound_on_x0_that_a_class_does_not_know_is_said(name, caplog):
    diffusers.utils.logging.enable_propagation()
    try:
        scheduler = getattr(schedulers, name).from_config(diffusers.DDIMScheduler().config)
        assert "asks for clip_sample" in caplog.text
        caplog.clear()
        getattr(schedulers, name).from_config(diffusers.DDIMScheduler(clip_sample=False).config)
        assert not caplog.text
    finally:
        diffusers.utils.logging.disable_propagation()
    assert np.isfinite(float(scheduler.init_noise_sigma))


def test_the_advice_for_bounded_samples_bounds_them():
    """thresholding with sample_max_value=1 is clip_sample: |x0| <= 1."""
    config = diffusers.DDIMScheduler().config
    bounded = schedulers.DPMSolverMultistepScheduler.from_config(config, thresholding=True, sample_max_value=1.0)
    bounded.set_timesteps(20)
    noise, x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)), start(None)
    for t in bounded.timesteps:
        x = bounded.step(noise, t, x).prev_sample
    assert x.abs().max() <= 1.0 + 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 2, 5, 2)])
def test_a_brownian_run_may_be_repeated_at_another_shape(shape):
    scheduler = make("DPMSolverSDEScheduler")
    scheduler.set_timesteps(4)
    images = [run_at(scheduler, size) for size in ((2, 3, 6, 5), shape, shape)]
    assert images[1].shape == shape
    assert torch.equal(images[1], images[2])  # by the seed


def test_a_generator_seeds_brownian_noise_where_the_configuration_does_not():
    scheduler = schedulers.DPMSolverSDEScheduler()
    images = []
    for seed in (5, 5, 6):
        scheduler.set_timesteps(3)
        images.append(run_at(scheduler, (2, 1, 4, 4), generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def run_at(scheduler: object, shape: tuple[int, ...], **options: object) -> torch.Tensor:
    x = start(scheduler, shape)
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
    return x

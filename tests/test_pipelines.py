"""Pipelines of diffusers as models: the same images as the pipeline's own, sample by sample, with gradients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import diffusers
import numpy as np
import pytest
import tiny_flow_pipelines as flow
import tiny_guided_pipelines as guided
import tiny_pipelines as tiny
import torch
from diffusers.schedulers import scheduling_cosine_dpmsolver_multistep as cosine
from torch import Tensor

import fastdiff as fd
from fastdiff.pipelines.reading import reading_of

STEPS = 4
# The solver that the scheduler of each pipeline is, where it is not Euler's or DDIM's.
SOLVERS: dict[Callable, tuple] = {
    guided.stable_audio: ("dpmpp_2m_sde", {"order": 1, "eta": 1.0, "s_noise": 0.0}),
    guided.cogvideox: ("ddim", {}),
    guided.audioldm2: ("ddim", {}),
}
# Of each pipeline's largest value; 3e-6 is the most that was seen. Their schedulers' numbers are float32.
TOLERANCE = 3e-5


class Made(NamedTuple):
    pipe: Any
    call: dict[str, Any]
    own: Tensor
    denoiser: fd.pipelines.Denoiser


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@functools.cache
def made(build: Callable) -> Made:
    """A pipeline, what it draws, and its denoiser."""
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:  # without the noise of Stable Audio's SDE
        patch.setattr(cosine.BrownianTreeNoiseSampler, "__call__", lambda self, a, b: torch.zeros(()))
        own = pipe(**call, num_inference_steps=STEPS, generator=generator(), return_dict=False)[0]
    denoiser = fd.pipelines.denoiser(pipe, **call, num_inference_steps=STEPS, generator=generator())
    return Made(pipe, call, torch.as_tensor(own), denoiser)


def plan_of(build: Callable) -> fd.Plan:
    """The pipeline's own scheduler as a plan; some tell their networks times that they have rounded."""
    pipe, _, _, d = made(build)
    solver, options = SOLVERS.get(build, ("euler", {}))
    plan = fd.plan(solver, d.schedule, grid=d.times(STEPS), **options)
    if not pipe.scheduler.config.get("use_flow_sigmas"):
        return plan
    told = (pipe.scheduler.timesteps.double() / 1000).tolist()
    return replace(plan, rows=tuple(replace(row, t=t) for row, t in zip(plan.rows, told, strict=True)))


def begun(schedule: fd.Schedule, plan: fd.Plan) -> float:
    """What diffusers' schedulers begin with over what the plan begins with.

    Flows begin with the noise itself at sigma < 1 too, EDM with sqrt(sigma^2 + 1) times it.
    """
    own = {"vp": 1.0, "flow": 1.0, "ve": (plan.start[1] ** 2 + 1) ** 0.5}[schedule.kind]
    return own / plan.init_scale


@pytest.mark.parametrize("build", guided.PIPELINES, ids=lambda build: build.__name__)
def test_sample_and_decode_give_the_pipelines_own_image(build: Callable):
    pipe, _, own, d = made(build)
    before = dict(vars(pipe))
    plan = plan_of(build)
    x0 = fd.sample(d.model, plan, d.noise * begun(d.schedule, plan), **d.conditions)
    ours = torch.as_tensor(d.decode(x0))
    assert torch.isfinite(own).all()
    assert (ours - own).abs().max() <= TOLERANCE * own.abs().max()
    assert all(vars(pipe)[name] is value for name, value in before.items())
    assert vars(pipe).keys() == before.keys()


@pytest.mark.parametrize("build", guided.PIPELINES, ids=lambda build: build.__name__)
def test_every_sample_is_the_same_in_any_company(build: Callable):
    d = made(build).denoiser
    t = torch.full((3,), 0.6 * d.schedule.t_max, dtype=torch.float64)
    which = torch.tensor([1, 0, 1])
    x = torch.randn(3, *d.noise.shape[1:])
    x[1] = x[0]
    with torch.no_grad():
        several = d.model(x, t, which)
        assert (several[0] - several[1]).abs().max() > 3e-3 * several.abs().max()  # 1.5e-2 is the least seen
        for i in range(3):
            alone = d.model(x[i : i + 1], t[:1], which[i : i + 1])
            assert (alone[0] - several[i]).abs().max() <= 5e-5 * several.abs().max()
        both, swapped = d.model(x[1:], t[:2]), d.model(x[[2, 1]], t[:2], torch.tensor([1, 0]))
        assert (swapped - both[[1, 0]]).abs().max() <= 5e-5 * both.abs().max()


def test_a_decoder_draws_what_the_pipeline_would_draw_next():
    """LTX-Video's decoder takes noise from the generator that the latents came from."""
    pipe, call = guided.ltx()
    pipe.register_modules(vae=guided.ltx_vae())
    call = {**call, "output_type": "pt", "decode_timestep": 0.05, "decode_noise_scale": 0.5}
    own = pipe(**call, num_inference_steps=2, generator=generator(), return_dict=False)[0]
    d = fd.pipelines.denoiser(pipe, **call, num_inference_steps=2, generator=generator())
    x0 = fd.sample(d.model, fd.plan("euler", d.schedule, 2), d.noise)
    for _ in range(2):
        torch.testing.assert_close(d.decode(x0), own, rtol=1e-4, atol=1e-4)


def inpainting() -> tuple:
    """Of a network that reads the mask and the masked image, encoded with noise of the generator."""
    pipe, call = without(tiny.inpainting(guided.vp_euler()), "strength")
    pipe.register_modules(unet=tiny.text_unet(in_channels=9))
    return pipe, call


def test_what_a_pipeline_draws_for_its_networks_is_drawn_again_for_each_evaluation():
    _, _, own, d = made(inpainting)
    x0 = fd.sample(d.model, plan_of(inpainting), d.noise, **d.conditions)
    assert (torch.as_tensor(d.decode(x0)) - own).abs().max() <= TOLERANCE * own.abs().max()
    pipe, call = inpainting()
    torch.manual_seed(5)
    first, second = (fd.pipelines.denoiser(pipe, **call) for _ in range(2))
    with torch.no_grad():
        m = [d.model(first.noise, torch.ones(2)) for d in (first, first, second)]
    assert torch.equal(m[0], m[1])
    assert not torch.equal(m[0], m[2])
    torch.manual_seed(5)
    assert torch.equal(fd.pipelines.denoiser(pipe, **call).noise, first.noise)


def test_a_pipeline_that_ends_with_its_last_steps_x0_is_given_it():
    """Latent consistency models: one step to x0, where the network's own prediction is used."""
    pipe, call = tiny.latent_consistency(diffusers.LCMScheduler())
    pipe.set_progress_bar_config(disable=True)
    own = pipe(**call, num_inference_steps=1, generator=generator(), return_dict=False)[0]
    d = fd.pipelines.denoiser(pipe, **call, generator=generator())
    plan = fd.plan("lcm", d.schedule, grid=d.times(1))
    torch.testing.assert_close(d.decode(fd.sample(d.model, plan, d.noise)), own, rtol=1e-4, atol=1e-4)


def test_a_guidance_of_fastdiff_takes_prompts_for_its_calls():
    """The unguided pipeline's prompts by their numbers give what its own guidance gives."""
    d = made(guided.stable_diffusion_3).denoiser
    pipe, call = made(guided.stable_diffusion_3)[:2]
    names = ("prompt_embeds", "pooled_prompt_embeds")
    both = {name: torch.cat([call[name], call[f"negative_{name}"]]) for name in names}
    plain = fd.pipelines.denoiser(pipe, **both, guidance_scale=1.0, height=16, width=16)
    plan = fd.plan("dpmpp_2m", d.schedule, 3)
    negative = {"which": torch.tensor([2, 3])}
    for mode in ("batch", "calls"):
        drawn = fd.sample(
            plain.model, plan, d.noise, which=torch.tensor([0, 1]), uncond=negative, guidance=7.0, guidance_mode=mode
        )
        torch.testing.assert_close(drawn, fd.sample(d.model, plan, d.noise), rtol=1e-3, atol=1e-3)


def test_gradients_pass_where_they_are_recorded_and_only_there():
    d = made(guided.stable_diffusion).denoiser
    x, t = d.noise.clone().requires_grad_(), torch.full((2,), 500.0)
    (slope,) = torch.autograd.grad(d.model(x, t).square().sum(), x)
    assert slope.abs().max() > 0
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        ahead, behind = (d.model(x + sign * step, t).square().sum() for sign in (1, -1))
        assert not d.model(x, t).requires_grad
    assert torch.is_grad_enabled()
    # The difference is off by the third derivative, and by rounding: both far below a twentieth.
    assert float((ahead - behind) / 2) == pytest.approx(float((slope * step).sum()), rel=0.05)


def test_times_are_the_schedulers_own_and_a_repeated_one_counts_once():
    pipe = tiny.text_to_image(diffusers.HeunDiscreteScheduler(**guided.SD))[0]
    d = fd.pipelines.denoiser(pipe, **tiny.prompt())
    pipe.scheduler.set_timesteps(5)
    own = pipe.scheduler.timesteps.double().numpy()
    np.testing.assert_array_equal(d.times(5), own[np.append(True, np.diff(own) != 0)])
    assert len(d.times(5)) == 5


def test_shift_follows_from_the_resolution_and_where_it_does_from_the_steps():
    pipe, call = guided.flux_2()
    few, many = (fd.pipelines.denoiser(pipe, **call, num_inference_steps=n).schedule for n in (4, 50))
    assert few.knots() != many.knots()
    d = made(guided.flux).denoiser
    assert d.schedule.knots() == fd.Schedule.flow(tokens=16).knots()


def test_one_text_and_a_negative_one_serve_any_number_of_samples():
    pipe, _ = guided.stable_diffusion()
    d = fd.pipelines.denoiser(pipe, prompt="a cat", negative_prompt="blurred", output_type="latent")
    two = fd.pipelines.denoiser(pipe, prompt=["a cat", "hills"], negative_prompt=["blurred"] * 2)
    x, t = torch.randn(3, *d.noise.shape[1:]), torch.full((3,), 700.0)
    with torch.no_grad():
        m = d.model(x, t, torch.zeros(3, dtype=torch.int64))
        torch.testing.assert_close(m, two.model(x, t, torch.zeros(3, dtype=torch.int64)), rtol=1e-4, atol=1e-4)
    assert d.decode(x, torch.zeros(3, dtype=torch.int64)).shape == x.shape


def test_texts_are_encoded_once():
    pipe, call = guided.stable_diffusion()
    d = fd.pipelines.denoiser(pipe, **call)
    d.model(d.noise[:1], torch.ones(1), torch.tensor([1]))
    pipe.register_modules(text_encoder=None)
    gone = d.model(d.noise[:1], torch.ones(1), torch.tensor([1]))
    assert torch.isfinite(gone).all()


PIPE, CALL = guided.stable_diffusion()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timesteps": [5, 1]}, "timesteps: the plan says it"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt: is 1 here; repeat the prompts"),
        ({"callback_on_step_end": print}, "callback_on_step_end: depends on the number of the step"),
        ({"return_dict": False}, "return_dict: decode returns the images alone"),
    ],
)
def test_arguments_that_a_plan_or_one_evaluation_cannot_have_are_refused(changes: dict, words: str):
    with pytest.raises(ValueError, match=words):
        fd.pipelines.denoiser(PIPE, **CALL, **changes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("guidance", "guidance: StableDiffusionPipeline has no such argument; did you mean guidance_scale"),
        ("hieght", "hieght: StableDiffusionPipeline has no such argument; did you mean height"),
    ],
)
def test_unknown_arguments_are_refused_with_the_name_that_was_meant(name: str, words: str):
    with pytest.raises(TypeError, match=words):
        fd.pipelines.denoiser(PIPE, **CALL, **{name: 1})


def without(made: tuple, name: str) -> tuple:
    pipe, call = made
    return pipe, {key: value for key, value in call.items() if key != name}


def cached_flux() -> tuple:
    pipe, call = guided.flux()
    net = tiny.copied(pipe.transformer)
    net.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    pipe.register_modules(transformer=net)
    return pipe, call


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: tiny.dit(diffusers.DDIMScheduler()), "DiTPipeline makes its noise inside its call"),
        (lambda: tiny.image_to_image(guided.vp_euler()), "strength: begins from an image"),
        (lambda: without(tiny.image_to_image(guided.vp_euler()), "strength"), "pipe: begins at|puts noise on an image"),
        (lambda: without(tiny.inpainting(guided.vp_euler()), "strength"), "mask_image: is applied after each step"),
        (cached_flux, "its transformer keeps outputs from step to step"),
        (lambda: flow.wan(guided.flow_euler(invert_sigmas=True)), "with invert_sigmas noise rises"),
        (lambda: tiny.text_to_image(diffusers.EulerDiscreteScheduler(timestep_type="continuous")), "sigma_min"),
    ],
)
def test_pipelines_that_do_more_than_one_evaluation_can_say_are_refused(build: Callable, words: str):
    pipe, call = build()
    with pytest.raises(ValueError, match=words):
        fd.pipelines.denoiser(pipe, **call)


def of_parts(**parts: object) -> tuple:
    """A pipeline with something more that it asks."""
    pipe, call = guided.stable_diffusion()
    vars(pipe).update(parts)
    return pipe, call


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"guider": diffusers.AdaptiveProjectedGuidance()},
            "its guider, AdaptiveProjectedGuidance, depends on the num",
        ),
        (
            {"guider": diffusers.ClassifierFreeGuidance(stop=0.5)},
            "its guider, ClassifierFreeGuidance, depends on the num",
        ),
        ({"prepare_audio_latents": print}, "draws pictures and sound at once"),
    ],
)
def test_pipelines_whose_parts_change_from_step_to_step_are_refused(parts: dict, words: str):
    pipe, call = of_parts(**parts)
    with pytest.raises(ValueError, match=words):
        fd.pipelines.denoiser(pipe, **call)
    pipe, call = of_parts(guider=diffusers.ClassifierFreeGuidance())
    fd.pipelines.denoiser(pipe, **call)


def test_what_else_is_one_for_each_sample_is_not_mistaken_for_every_samples():
    pipe, call = guided.stable_diffusion()
    embeddings = [torch.zeros(2, 1, 4), torch.ones(2, 1, 4)]
    d = fd.pipelines.denoiser(pipe, **call, ip_adapter_image_embeds=embeddings)
    with pytest.raises(ValueError, match="which: ip_adapter_image_embeds is one for each sample"):
        d.model(d.noise[:1], torch.ones(1), torch.tensor([0]))


@pytest.mark.parametrize(
    "scheduler",
    [
        *(diffusers.EDMEulerScheduler(prediction_type=kind, sigma_data=0.7) for kind in ("epsilon", "v_prediction")),
        diffusers.EulerDiscreteScheduler(
            sigma_min=0.01, sigma_max=70.0, prediction_type="v_prediction", timestep_type="continuous"
        ),
    ],
)
def test_a_preconditioned_network_is_read_as_its_scheduler_reads_it(scheduler: Any):
    scheduler.set_timesteps(6)
    reading = reading_of(scheduler, fd.Schedule.from_scheduler(scheduler))
    x, m, t = torch.randn(2, 3), torch.randn(2, 3), scheduler.timesteps[0]
    sigma = scheduler.sigmas[:1].clone()
    told, sigmas = reading.times(sigma)
    torch.testing.assert_close(told[0], t)
    assert torch.equal(sigmas, sigma)
    torch.testing.assert_close(reading.scaled(x, sigma), scheduler.scale_model_input(x, t))
    expected = scheduler.step(m, t, x).pred_original_sample
    torch.testing.assert_close(reading.prediction(m, x, sigma), expected, rtol=1e-4, atol=1e-5)


def test_a_pipeline_that_looks_at_its_other_times_is_refused():
    pipe, call = guided.stable_diffusion_3()

    class Looks(type(pipe)):
        def __call__(self, *args: object, **kwargs: object) -> object:
            keep = self.transformer.register_forward_pre_hook(lambda *given: self.scheduler.sigmas[1])
            try:
                return super().__call__(*args, **kwargs)
            finally:
                keep.remove()

        __call__.__signature__ = inspect.signature(type(pipe).__call__)

    pipe.__class__ = Looks
    d = fd.pipelines.denoiser(pipe, **call)
    with pytest.raises(ValueError, match="asks for other times than the one it is at"):
        d.model(d.noise, torch.ones(2))


@pytest.mark.parametrize(
    ("x", "t", "which", "words"),
    [
        (torch.ones(2, 4, 8, 9), torch.ones(2), None, r"noise: expected \[B, 4, 8, 8\]"),
        (torch.ones(3, 4, 8, 8), torch.ones(3), None, "which: expected the prompt of each of 3 samples, of 2"),
        (torch.ones(2, 4, 8, 8), torch.ones(2), torch.tensor([0, 2]), "which: expected 2 whole numbers from 0 to 1"),
        (torch.ones(2, 4, 8, 8), torch.ones(2), torch.tensor([0]), "which: expected 2 whole numbers"),
        (torch.ones(2, 4, 8, 8), torch.ones(2), torch.tensor([0.5, 1]), "which: expected 2 whole numbers"),
        (torch.ones(2, 4, 8, 8), torch.tensor([1.0, 2.0]), None, "t: a pipeline evaluates at one time"),
    ],
)
def test_a_call_with_other_samples_or_times_is_refused(x: Tensor, t: Tensor, which: Tensor | None, words: str):
    with pytest.raises(ValueError, match=words):
        made(guided.stable_diffusion).denoiser.model(x, t, which)


@pytest.mark.parametrize("pipe", ["pipe", torch.nn.Identity(), None])
def test_something_else_than_a_pipeline_is_refused(pipe: object):
    with pytest.raises(TypeError, match="pipe: expected a diffusers pipeline with a scheduler, got"):
        fd.pipelines.denoiser(pipe, prompt="a cat")

"""PlanScheduler in diffusers' own pipelines: they draw what `fastdiff.sample` draws, or diffusers' scheduler."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import diffusers
import pytest
import tiny_flow_pipelines as flow
import tiny_pipelines as tiny
import torch
from plan_variants import moved
from torch import Tensor

import fastdiff as fd

STEPS = 5
NEAR = {"rtol": 1e-5, "atol": 1e-5}
# What each pipeline tells its network where the plan says t.
UNITS = {flow.sd3: 1000.0, tiny.flux: 1.0, flow.wan: 1000.0, flow.qwen_image: 1.0, flow.sana: 1000.0, flow.ltx: 1000.0}
SD = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False,
    "set_alpha_to_one": False,
}  # fmt: skip


def run(pipe: object, call: dict[str, object], seed: int = 3) -> Tensor:
    """The latents after the last step."""
    return tiny.last_latents(pipe, {"num_inference_steps": STEPS, **call}, seed)


def flow_plan(kind: str) -> fd.Plan:
    schedule = fd.Schedule.flow(3.0)
    solver = {"moved": "dpmpp_2m"}.get(kind, kind)
    steps = STEPS if solver != "heun" else 3
    plan = fd.plan(solver, schedule, steps, prediction="flow_prediction")
    return moved(plan, first=False) if kind == "moved" else plan


@pytest.mark.parametrize("kind", ["dpmpp_2m", "unipc", "heun", "moved"])
@pytest.mark.parametrize("build", UNITS, ids=lambda build: build.__name__)
def test_flow_pipeline_draws_what_sample_draws(build: Callable, kind: str):
    plan = flow_plan(kind)
    pipe, call = build(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipe.scheduler = fd.PlanScheduler.from_config(pipe.scheduler.config, plan=plan)
    with tiny.calls_of(pipe.transformer) as calls:
        drawn = run(pipe, {**call, "num_inference_steps": plan.nfe})
    assert len(calls) == plan.nfe
    words = {name: value for name, value in calls[0].items() if name not in ("hidden_states", "timestep")}

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return pipe.transformer(hidden_states=x, timestep=UNITS[build] * t, **words)[0]

    torch.testing.assert_close(drawn, fd.sample(denoiser, plan, calls[0]["hidden_states"]), **NEAR)


FLOW_MODEL = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize(
    ("build", "solver", "own"),
    [
        *((build, "euler", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)) for build in UNITS),
        (flow.sana, "dpmpp_2m", diffusers.DPMSolverMultistepScheduler(**FLOW_MODEL)),
        (flow.wan, "unipc", diffusers.UniPCMultistepScheduler(**FLOW_MODEL)),
    ],
)
def test_flow_pipeline_draws_what_diffusers_scheduler_draws_on_the_same_grid(build: Callable, solver: str, own: object):
    own = type(own).from_config(own.config)
    expected = run(*build(own))
    options = {"order": 2} if solver == "unipc" else {}
    plan = fd.plan(
        solver, fd.Schedule.flow(3.0), sigmas=own.sigmas.double().numpy(), prediction="flow_prediction", **options
    )
    told = (own.timesteps / 1000).tolist()  # some round it
    plan = replace(plan, rows=tuple(replace(row, t=t) for row, t in zip(plan.rows, told, strict=True)))
    pipe, call = build(fd.PlanScheduler.from_config(own.config, plan=plan))
    torch.testing.assert_close(run(pipe, call), expected, **NEAR)


def vp_plan(scheduler: object, start: float = 1.0) -> fd.Plan:
    scheduler.set_timesteps(STEPS)
    schedule = fd.Schedule.from_alphas_cumprod(scheduler.alphas_cumprod.double().numpy())
    return fd.plan("dpmpp_2m", schedule, grid=scheduler.timesteps.double().numpy(), start=start)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(
    "build", [tiny.text_to_image, tiny.image_to_image, tiny.inpainting, tiny.sdxl], ids=lambda build: build.__name__
)
def test_vp_pipeline_draws_what_diffusers_scheduler_draws_on_the_same_grid(build: Callable, spacing: str):
    options = {name: value for name, value in SD.items() if name not in ("clip_sample", "set_alpha_to_one")}
    own = diffusers.DPMSolverMultistepScheduler(**options, timestep_spacing=spacing)
    expected = run(*build(own))
    pipe, call = build(fd.PlanScheduler.from_config(own.config, plan=vp_plan(own)))
    torch.testing.assert_close(run(pipe, call), expected, rtol=2e-4, atol=2e-4)


def sd3_image_to_image(scheduler: object, kind: str = "StableDiffusion3Img2ImgPipeline") -> tuple:
    pipe, call = flow.sd3(scheduler, channels=16)
    made = getattr(diffusers, kind)(**pipe.components)
    return made, {**call, "image": tiny.picture(), "strength": 0.6}


def sd3_inpainting(scheduler: object) -> tuple:
    pipe, call = sd3_image_to_image(scheduler, "StableDiffusion3InpaintPipeline")
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 4:] = 1.0
    return pipe, {**call, "mask_image": mask}


def flux_image_to_image(scheduler: object) -> tuple:
    pipe, call = tiny.flux(scheduler)
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    made = diffusers.FluxImg2ImgPipeline(**{name: getattr(pipe, name) for name in parts})
    return made, {**call, "image": tiny.picture(), "strength": 0.6}


@pytest.mark.parametrize("build", [sd3_image_to_image, flux_image_to_image, sd3_inpainting])
def test_flow_image_to_image_and_inpainting_draw_what_diffusers_euler_draws(build: Callable):
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected = run(*build(own))
    plan = fd.plan("euler", fd.Schedule.flow(3.0), sigmas=own.sigmas.double().numpy(), prediction="flow_prediction")
    pipe, call = build(fd.PlanScheduler.from_config(own.config, plan=plan))
    torch.testing.assert_close(run(pipe, call), expected, **NEAR)


def test_stable_diffusion_reads_c_in_x_wherever_a_plan_says_so():
    """The plan's own c_in, of its first row too: the pipeline calls scale_model_input."""
    own = diffusers.DDIMScheduler(**SD)
    plan = moved(vp_plan(own), first=True)
    pipe, call = tiny.text_to_image(fd.PlanScheduler.from_config(own.config, plan=plan))
    call = {name: value for name, value in call.items() if not name.startswith("negative")} | {"guidance_scale": 1.0}
    drawn = run(pipe, call)
    noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(3))

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return pipe.unet(x, t, encoder_hidden_states=call["prompt_embeds"])[0]

    torch.testing.assert_close(drawn, fd.sample(denoiser, plan, noise), **NEAR)


def test_pipeline_is_saved_with_its_plan(tmp_path):
    own = diffusers.DDPMScheduler(clip_sample=False)
    plan = fd.plan("dpm_solver_2m", fd.Schedule.linear(), STEPS)
    pipe, call = tiny.ldm(fd.PlanScheduler.from_config(own.config, plan=plan))
    call = {**call, "num_inference_steps": STEPS}
    expected = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.LDMPipeline.from_pretrained(tmp_path)
    assert (type(loaded.scheduler), loaded.scheduler.plan) == (fd.PlanScheduler, plan)
    assert (loaded(**call, generator=torch.Generator().manual_seed(1)).images == expected).all()


@pytest.mark.parametrize("shift", [True, False])
def test_a_dynamic_shift_other_than_the_plans_is_said_aloud(shift: bool):
    """Flux lays its times by the number of tokens; a plan's stay where they are."""
    own = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    tokens = 16
    schedule = fd.Schedule.flow(3.0) if shift else fd.Schedule.flow(tokens=tokens)
    plan = fd.plan("euler", schedule, STEPS, prediction="flow_prediction")
    pipe, call = tiny.flux(fd.PlanScheduler.from_config(own.config, plan=plan))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(pipe, call)
    words = [str(w.message) for w in said if "shift" in str(w.message)]
    assert len(words) == shift
    if shift:
        assert "shift 3, the pipeline asks for 1.58" in words[0]
        assert "fastdiff.Schedule.flow(1.58" in words[0]


def test_flux_draws_what_diffusers_draws_under_its_dynamic_shift():
    own = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    expected = run(*tiny.flux(own))
    plan = fd.plan("euler", fd.Schedule.flow(tokens=16), STEPS, prediction="flow_prediction")
    pipe, call = tiny.flux(fd.PlanScheduler.from_config(own.config, plan=plan))
    torch.testing.assert_close(run(pipe, call), expected, **NEAR)

"""Whole diffusers pipelines: a script that changes its scheduler's import draws the same images."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterable

import diffusers
import pytest
import tiny_pipelines as tiny
import torch
from host_reads import HostReads
from scheduler_loops import LMSFromAnyStep
from torch import Tensor

import fastdiff as fd
from fastdiff import schedulers

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation")]
STEPS = 5
# Of the image's range. The linear betas of DDPM begin at alpha = 0.006, by which x0 is divided.
TOLERANCE = {tiny.ddpm: 3e-5, tiny.ddim: 3e-5}

STABLE_DIFFUSION = {**diffusers.DDIMScheduler(**tiny.STABLE_DIFFUSION).config, "skip_prk_steps": True}
PIXELS = diffusers.DDPMScheduler().config
LATENTS = diffusers.DDIMScheduler(1000, 0.0015, 0.0195, "scaled_linear", clip_sample=False).config
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
TRAINED = {
    tiny.ddpm: PIXELS,
    tiny.ddim: PIXELS,
    tiny.ldm: LATENTS,
    tiny.ldm_text_to_image: LATENTS,
    tiny.sd3: FLOW,
    tiny.flux: FLOW,
}

DPM = "DPMSolverMultistepScheduler"
AS_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
FOR_STABLE_DIFFUSION = (
    ("DDIMScheduler", {}),
    ("DDPMScheduler", {}),
    ("DEISMultistepScheduler", {}),
    (DPM, {}),
    (DPM, {"use_karras_sigmas": True, "solver_order": 3}),
    (DPM, {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSDEScheduler", {"noise_sampler_seed": 5}),
    ("DPMSolverSinglestepScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("TCDScheduler", {}),
    ("UniPCMultistepScheduler", {}),
)
NAMES = tuple(dict.fromkeys(name for name, _ in FOR_STABLE_DIFFUSION))
FAMILIES = (
    "DDIMScheduler",
    DPM,
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
CLIENTS = {
    tiny.text_to_image: FOR_STABLE_DIFFUSION,
    tiny.prompt_to_image: (("PNDMScheduler", {}), ("UniPCMultistepScheduler", {})),
    tiny.image_to_image: FOR_STABLE_DIFFUSION,
    # They call a scheduler as the two above do: one of each family.
    tiny.inpainting: tuple((name, {}) for name in FAMILIES),
    tiny.sdxl: (*((name, {}) for name in FAMILIES), ("EDMEulerScheduler", {}), ("EDMDPMSolverMultistepScheduler", {})),
    tiny.pixart: ((DPM, {}), ("DDIMScheduler", {}), ("EulerDiscreteScheduler", {}), ("UniPCMultistepScheduler", {})),
    tiny.dit: ((DPM, {}), ("DDIMScheduler", {}), ("DDPMScheduler", {}), ("IPNDMScheduler", {})),
    tiny.ddpm: (("DDPMScheduler", {}), ("DDIMScheduler", {}), (DPM, {})),
    tiny.ddim: (("DDIMScheduler", {}),),
    tiny.ldm: (("DDIMScheduler", {}), ("PNDMScheduler", {}), ("LMSDiscreteScheduler", {}), (DPM, {})),
    tiny.ldm_text_to_image: (("DDIMScheduler", {}), ("PNDMScheduler", {}), ("LMSDiscreteScheduler", {})),
    tiny.latent_consistency: (("LCMScheduler", {}),),
    tiny.sd3: (
        ("FlowMatchEulerDiscreteScheduler", {}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        (DPM, AS_FLOW),
        ("UniPCMultistepScheduler", AS_FLOW),
    ),
    tiny.flux: (
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        ("FlowMatchEulerDiscreteScheduler", {}),
        (DPM, AS_FLOW | {"use_dynamic_shifting": True}),
    ),
}


def pair(name: str, trained: dict, **options: object) -> tuple[object, object]:
    """fastdiff's scheduler and diffusers', both made as users make them."""
    return tuple(getattr(library, name).from_config(trained, **options) for library in (schedulers, diffusers))


def draw(client: object, scheduler: object, seed: int, **options: object) -> Tensor:
    pipe, arguments = client(scheduler)
    pipe.set_progress_bar_config(disable=True)
    return run(pipe, seed, **arguments | options)


def run(pipe: Callable, seed: int, **arguments: object) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # LDM gives its scheduler no generator
    return torch.as_tensor(pipe(**{"num_inference_steps": STEPS, "generator": generator} | arguments)[0])


def options_of(scheduler: object) -> dict:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.dtype == theirs.dtype
    assert theirs.isfinite().all()
    spread = float(theirs.max() - theirs.min())
    assert spread > 0.1
    assert float((ours - theirs).abs().max()) <= tolerance * spread


def agree(client: object, name: str, seed: int, config: dict | None = None, **options: object) -> None:
    both = pair(name, TRAINED.get(client, STABLE_DIFFUSION), **config or {})
    if name == "LMSDiscreteScheduler":
        both[1].__class__ = LMSFromAnyStep
    ours, theirs = (draw(client, scheduler, seed, **options) for scheduler in both)
    assert_same(ours, theirs, TOLERANCE.get(client, 1e-5))


CASES = [(client, name, config) for client, choices in CLIENTS.items() for name, config in choices]
FIRST_OF_EACH = {(name, str(config)): (client, name, config) for client, name, config in reversed(CASES)}.values()


def each(cases: Iterable[tuple]) -> pytest.MarkDecorator:
    def name_of(part: object) -> str:
        return part if isinstance(part, str) else getattr(part, "__name__", None) or str(part or "")

    return pytest.mark.parametrize(("client", "name", "config"), list(cases), ids=name_of)


@each(CASES)
def test_the_image_stays_the_same(client, name, config, seed):
    agree(client, name, seed, config)


@pytest.mark.parametrize("name", ["DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"])
def test_inversion(name, seed):
    latents = []
    for scheduler in pair(name, STABLE_DIFFUSION):
        pipe, arguments = tiny.inversion(scheduler)
        latents.append(run(pipe.invert, seed, **arguments))
    assert_same(*latents, 1e-4)  # the network makes 1e-6 of the picture up to 3e-5 of the latents


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_guidance(guidance_scale, seed):
    for client in (tiny.text_to_image, tiny.dit, tiny.sdxl):
        agree(client, DPM, seed, guidance_scale=guidance_scale)


@pytest.mark.parametrize("strength", [0.2, 0.5])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_is_changed_from_any_strength_on(name, strength, seed):
    agree(tiny.image_to_image, name, seed, strength=strength)


@pytest.mark.parametrize("name", ["DDIMScheduler", DPM, "EulerDiscreteScheduler"])
def test_a_part_is_painted_anew(name, seed):
    agree(tiny.inpainting, name, seed, strength=1.0)


def test_inpainting_models_that_see_mask_and_picture(seed):
    def client(scheduler):
        pipe, arguments = tiny.inpainting(scheduler)
        pipe.unet = tiny.text_unet(in_channels=9)
        return pipe, arguments

    agree(client, DPM, seed)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_eta(eta, seed):
    for client in (tiny.text_to_image, tiny.ddim, tiny.ldm):
        agree(client, "DDIMScheduler", seed, eta=eta)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (DPM, {"timesteps": [901, 601, 301, 101]}),
        ("DDPMScheduler", {"timesteps": [901, 601, 301, 101]}),
        ("HeunDiscreteScheduler", {"timesteps": [901, 601, 301, 101]}),
        ("EulerDiscreteScheduler", {"sigmas": [14.0, 5.0, 1.0, 0.2, 0.0]}),
    ],
)
def test_times_of_the_users_own(name, options, seed):
    agree(tiny.text_to_image, name, seed, **options)


def test_a_generator_for_each_image(seed):
    for name, config in (("DDIMScheduler", {}), (DPM, {"algorithm_type": "sde-dpmsolver++"})):
        images = []
        for scheduler in pair(name, STABLE_DIFFUSION, **config):
            generators = [torch.Generator().manual_seed(seed + b) for b in range(2)]
            images.append(draw(tiny.text_to_image, scheduler, seed, eta=1.0, generator=generators))
        assert_same(*images)


@pytest.mark.parametrize("name", FAMILIES)
def test_callbacks_see_and_change_the_same_latents(name, seed):
    seen: list[list[Tensor]] = []

    def halve(pipe, step, t, tensors):
        seen[-1].append(tensors["latents"])
        pipe._interrupt = step == 3
        return {"latents": tensors["latents"] / 2}

    images = []
    for scheduler in pair(name, STABLE_DIFFUSION):
        seen.append([])
        images.append(draw(tiny.text_to_image, scheduler, seed, callback_on_step_end=halve))
    assert_same(*images)
    assert len(seen[0]) == len(seen[1]) == 4
    for ours, theirs in zip(*seen, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_pipelines_that_share_a_scheduler_do_not_disturb_each_other(name, seed):
    shared = getattr(schedulers, name).from_config(STABLE_DIFFUSION)
    cases = [(tiny.text_to_image, seed, 6), (tiny.image_to_image, seed + 1, 5), (tiny.sdxl, seed + 2, 4)]
    alone = [draw(client, shared, s, num_inference_steps=n) for client, s, n in cases]

    images: list[Tensor] = []

    def start_the_next(pipe, step, t, tensors):
        if step == 1 and len(images) < 2:
            images.append(draw(cases[2][0], shared, cases[2][1], num_inference_steps=cases[2][2]))
            images.append(draw(cases[1][0], shared, cases[1][1], num_inference_steps=cases[1][2]))
        return tensors

    client, s, n = cases[0]
    inside = draw(client, shared, s, num_inference_steps=n, callback_on_step_end=start_the_next)
    for got, expected in zip((inside, *reversed(images)), alone, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_threads_that_share_a_scheduler_do_not_disturb_each_other(name, seed):
    shared = getattr(schedulers, name).from_config(STABLE_DIFFUSION)
    cases = [(tiny.text_to_image, seed, 6), (tiny.sdxl, seed + 1, 4)]
    alone = [draw(client, shared, s, num_inference_steps=n) for client, s, n in cases]
    images: dict[int, Tensor] = {}
    turn = threading.Barrier(2, timeout=300)

    def work(k: int) -> None:
        def alternate(pipe, step, t, tensors):
            if step < 3:
                turn.wait()
            return tensors

        client, s, n = cases[k]
        images[k] = draw(client, shared, s, num_inference_steps=n, callback_on_step_end=alternate)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, expected in enumerate(alone):
        assert torch.equal(images[k], expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_pipelines_come_back_with_fastdiffs_scheduler(name, seed, tmp_path):
    pipe, arguments = tiny.prompt_to_image(getattr(schedulers, name).from_config(STABLE_DIFFUSION))
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["fastdiff", name]
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is getattr(schedulers, name)
    assert options_of(again.scheduler) == options_of(pipe.scheduler)
    assert torch.equal(run(again, seed, **arguments), run(pipe, seed, **arguments))


@pytest.mark.parametrize("name", NAMES)
def test_configurations_go_both_ways(name):
    before = diffusers.DDIMScheduler.from_config(STABLE_DIFFUSION)
    ours, theirs = (getattr(library, name).from_config(before.config) for library in (schedulers, diffusers))
    assert ours.config == theirs.config
    assert getattr(diffusers, name).from_config(ours.config).config == theirs.config
    assert diffusers.DDIMScheduler.from_config(ours.config).config == before.config
    assert ours.compatibles


@pytest.mark.parametrize("name", ["DDIMScheduler", DPM, "EulerDiscreteScheduler"])
def test_half_precision(name, seed):
    images = []
    for scheduler in pair(name, STABLE_DIFFUSION):
        pipe, arguments = tiny.text_to_image(scheduler)
        parts = {k: v.to(torch.bfloat16) if isinstance(v, Tensor) else v for k, v in arguments.items()}
        pipe.unet = tiny.copied(pipe.unet, torch.bfloat16)
        images.append(run(pipe, seed, **parts))
    assert images[0].dtype == torch.bfloat16
    assert_same(*(image.float() for image in images), 3e-2)


def test_accelerate_keeps_the_image_and_undo_restores(seed):
    for name in ("DDIMScheduler", DPM, "EulerDiscreteScheduler"):
        scheduler = getattr(diffusers, name).from_config(STABLE_DIFFUSION)
        pipe, arguments = tiny.text_to_image(scheduler)
        pipe.unet, pipe.vae = tiny.copied(pipe.unet), tiny.copied(pipe.vae)
        arguments["output_type"] = "pt"
        before = run(pipe, seed, **arguments)
        handle = fd.accelerate(pipe)
        assert type(pipe.scheduler) is getattr(schedulers, name)
        assert handle.changes["attention processor"] > 0
        assert_same(run(pipe, seed, **arguments), before, 1e-4)
        handle.undo()
        assert pipe.scheduler is scheduler
        assert torch.equal(run(pipe, seed, **arguments), before)


@each(case for case in FIRST_OF_EACH if case[1] != "DPMSolverSDEScheduler")  # torchsde's noise reads its times
def test_no_step_waits_for_a_value(client, name, config, seed):
    scheduler, _ = pair(name, TRAINED.get(client, STABLE_DIFFUSION), **config)
    draw(client, scheduler, seed)  # makes the table
    step, reads, steps = scheduler.step, HostReads(), []

    @functools.wraps(step)
    def watched(*arguments, **options):
        steps.append(None)
        with reads:
            return step(*arguments, **options)

    scheduler.step = watched
    draw(client, scheduler, seed)
    assert len(steps) >= STEPS
    assert reads.seen == []

"""Guiders in real modular pipelines of diffusers, from tiny configurations with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable

import diffusers
import pytest
import tiny_modular as modular
import tiny_pipelines as tiny
import torch
from diffusers import LayerSkipConfig
from guider_cases import LAYERS
from torch import Tensor

import fastdiff as fd
from fastdiff import guiders

ROOM = diffusers.guiders
STEPS = 5
STABLE_DIFFUSION = {
    name: value for name, value in tiny.STABLE_DIFFUSION.items() if name not in ("clip_sample", "set_alpha_to_one")
}


def euler() -> diffusers.EulerDiscreteScheduler:
    return diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION)


def flow() -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def shifted_flow() -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


PIPELINES = {
    "sdxl": (modular.sdxl, euler),
    "sd3": (modular.sd3, flow),
    "qwen_image": (modular.qwen_image, shifted_flow),
    "wan": (modular.wan, flow),
}
SAME = [
    ("ClassifierFreeGuidance", {"guidance_rescale": 0.5}),
    ("ClassifierFreeGuidance", {"start": 0.2, "stop": 0.8}),
    ("AdaptiveProjectedGuidance", {"eta": 0.0, "adaptive_projected_guidance_momentum": -0.5}),
    ("AdaptiveProjectedMixGuidance", {"adaptive_projected_guidance_start_step": -1}),
    ("ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0}),
    ("TangentialClassifierFreeGuidance", {}),
]


def drawn(pipeline: str, guider: object, steps: int = STEPS) -> Tensor:
    make, scheduler = PIPELINES[pipeline]
    return modular.latents(make(scheduler(), guider), steps)


def assert_same(image: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(image, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "options"), SAME)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_images_are_those_of_diffusers(pipeline, name, options):
    assert_same(*(drawn(pipeline, getattr(room, name)(**options)) for room in (guiders, ROOM)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SkipLayerGuidance", {"skip_layer_config": LayerSkipConfig([0, 2]), "skip_layer_guidance_stop": 1.0}),
        (
            "SkipLayerGuidance",
            {"skip_layer_config": LayerSkipConfig([1]), "skip_layer_guidance_stop": 0.6, "guidance_rescale": 0.3},
        ),
        ("AutoGuidance", {"auto_guidance_config": [LayerSkipConfig([1])]}),
    ],
)
def test_images_with_skipped_blocks_are_those_of_diffusers(name, options):
    assert_same(*(drawn("wan", getattr(room, name)(**options)) for room in (guiders, ROOM)))


def by_hand(pipeline: str, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The image with a guider that is a formula."""

    class Formula(ROOM.ClassifierFreeGuidance):
        def forward(self, pred_cond: Tensor, pred_uncond: Tensor) -> object:
            return diffusers.guiders.guider_utils.GuiderOutput(
                pred=combine(pred_cond, pred_uncond), pred_cond=pred_cond, pred_uncond=pred_uncond
            )

    return drawn(pipeline, Formula())


@pytest.mark.parametrize("pipeline", ["sdxl", "sd3", "wan"])
def test_mambo_g_draws_latents(pipeline):
    def formula(cond: Tensor, uncond: Tensor) -> Tensor:
        ratio = [float((c - u).double().norm() / u.double().norm()) for c, u in zip(cond, uncond, strict=True)]
        scale = 1 + 9.0 * torch.exp(-8.0 * torch.tensor(ratio)).view(-1, *[1] * (cond.ndim - 1))
        return uncond + scale * (cond - uncond)

    assert_same(drawn(pipeline, guiders.MagnitudeAwareGuidance()), by_hand(pipeline, formula))


def test_bands_draw_images_and_videos():
    for pipeline in ("sdxl", "wan"):
        equal = guiders.FrequencyDecoupledGuidance([5.0, 5.0])
        assert_same(drawn(pipeline, equal), drawn(pipeline, guiders.ClassifierFreeGuidance(5.0)))
        apart = drawn(pipeline, guiders.FrequencyDecoupledGuidance([8.0, 3.0]))
        assert torch.isfinite(apart).all()
    with pytest.raises(ValueError, match="packed tokens"):
        drawn("qwen_image", guiders.FrequencyDecoupledGuidance())


@pytest.mark.parametrize("pipeline", ["sdxl", "sd3", "wan"])
def test_a_step_of_zero_velocity_does_not_move_the_state(pipeline):
    make, scheduler = PIPELINES[pipeline]
    scheduler = scheduler()
    guider = guiders.ClassifierFreeZeroStarGuidance(zero_init_steps=STEPS).follow(scheduler)
    image = modular.latents(make(scheduler, guider), STEPS)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    if pipeline == "sdxl":  # x = x0 + sigma eps, with x0 = eps all the way
        noise = noise * float(scheduler.init_noise_sigma / (1 + scheduler.sigmas[0]))
    assert_same(image, noise)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_projected_guidance_on_x0_without_its_changes_is_guidance(pipeline):
    make, scheduler = PIPELINES[pipeline]
    scheduler = scheduler()
    options = {"eta": 1.0, "adaptive_projected_guidance_rescale": 1e9}
    guider = guiders.AdaptiveProjectedGuidance(4.0, **options).follow(scheduler)
    image = modular.latents(make(scheduler, guider), STEPS)
    assert_same(image, drawn(pipeline, guiders.ClassifierFreeGuidance(4.0)))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_projected_guidance_on_x0_leaves_what_lies_along_x0(pipeline):
    """Whether x is heard where the latents are scaled, packed or are of several frames."""
    make, scheduler = PIPELINES[pipeline]
    scheduler, seen = scheduler(), []

    class Watched(guiders.AdaptiveProjectedGuidance):
        def forward(self, pred_cond: Tensor, pred_uncond: Tensor) -> object:
            output = super().forward(pred_cond, pred_uncond)
            x, (alpha, sigma, prediction) = self._listener.like(pred_cond), self._level
            p_x, p_m = fd.guidance.Point(0, 1, 0.0, alpha, sigma, prediction).to_x0
            along = p_x * x + p_m * pred_cond
            change = p_m * (output.pred - pred_cond)
            seen.append(torch.nn.functional.cosine_similarity(change.flatten(1), along.flatten(1)).abs().max())
            return output

    modular.latents(make(scheduler, Watched(4.0, eta=0.0).follow(scheduler)), STEPS)
    assert len(seen) == STEPS
    assert max(seen) < 1e-3


@pytest.mark.parametrize(("pipeline", "scheduler"), [("sdxl", diffusers.HeunDiscreteScheduler), ("sd3", None)])
def test_an_interval_of_noise_is_guided(pipeline, scheduler):
    make, default = PIPELINES[pipeline]
    scheduler = scheduler() if scheduler else default()
    guided = []

    class Watched(guiders.ClassifierFreeGuidance):
        def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> object:
            guided.append((float(self._level.ratio), pred_uncond is not None))
            return super().forward(pred_cond, pred_uncond)

    modular.latents(make(scheduler, Watched(guidance_interval=(0.5, 4.0)).follow(scheduler)), 8)
    assert {True, False} == {given for _, given in guided}
    assert all(given == (0.5 < ratio <= 4.0) for ratio, given in guided)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("pipeline", ["sd3", "wan"])
def test_perturbations_act_and_leave_the_network_as_it_was(pipeline, name):
    make, scheduler = PIPELINES[pipeline]
    window = {
        "SkipLayerGuidance": {"skip_layer_guidance_start": 0.0},
        "PerturbedAttentionGuidance": {"perturbed_guidance_start": 0.0},
        "SmoothedEnergyGuidance": {"seg_guidance_start": 0.0, "seg_guidance_stop": 0.2},
        "AutoGuidance": {},
    }[name]
    pipe, call = make(scheduler(), getattr(guiders, name)(guidance_scale=1.5, **LAYERS[name], **window))
    before = {key: set(vars(module)) for key, module in pipe.transformer.named_modules()}
    image = modular.latents((pipe, call), STEPS)
    assert {key: set(vars(module)) for key, module in pipe.transformer.named_modules()} == before
    plain = drawn(pipeline, guiders.ClassifierFreeGuidance(1.5))
    assert torch.isfinite(image).all()
    assert (image - plain).abs().max() > 1e-4
    assert torch.equal(image, modular.latents((pipe, call), STEPS))
    pipe.update_components(guider=guiders.ClassifierFreeGuidance(1.5))
    assert torch.equal(plain, modular.latents((pipe, call), STEPS))


def test_two_runs_of_one_pipeline_are_the_same():
    guider = guiders.AdaptiveProjectedGuidance(eta=0.0, adaptive_projected_guidance_momentum=-0.5, stop=0.6)
    made = modular.sd3(flow(), guider)
    assert torch.equal(modular.latents(made, STEPS), modular.latents(made, STEPS))


def test_schedulers_of_fastdiff_are_followed():
    images = []
    for cls in (diffusers.EulerDiscreteScheduler, fd.EulerDiscreteScheduler):
        scheduler = cls(**STABLE_DIFFUSION)
        guider = guiders.AdaptiveProjectedGuidance(eta=0.0, guidance_interval=(0.3, 8.0)).follow(scheduler)
        images.append(modular.latents(modular.sdxl(scheduler, guider), STEPS))
    assert_same(*images)


def test_a_pipeline_is_saved_with_its_guider(tmp_path):
    pipe, _ = modular.sd3(flow(), guiders.ClassifierFreeGuidance(3.0))
    spec = pipe.get_component_spec("guider")
    assert spec.type_hint is guiders.ClassifierFreeGuidance
    assert spec.create().guidance_scale == 3.0
    spec.create().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "guider_config.json").read_text())
    assert saved["_class_name"] == "ClassifierFreeGuidance"
    assert getattr(fd, saved["_class_name"]).from_pretrained(tmp_path).guidance_scale == 3.0

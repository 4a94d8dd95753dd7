"""Each line of the table of deviations in docs/guiders.md: what diffusers' guider does, and what is done here.

Where diffusers mends one of these, the assertion about `ROOM` fails: take the line from the table then.
"""

from __future__ import annotations

import diffusers
import pytest
import tiny_modular as modular
import torch
from diffusers import LayerSkipConfig
from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d
from guider_cases import LAYERS, guided_steps, outputs, step
from torch import nn

from fastdiff import guiders

ROOM = diffusers.guiders
ALWAYS = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}


class Block(nn.Module):
    """A block that adds a number, which depends on its place."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + 10.0**self.place


class Network(nn.Module):
    """Blocks of one stream."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(Block(place) for place in range(count))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.transformer_blocks:
            hidden_states = block(hidden_states)
        return hidden_states


@pytest.fixture(autouse=True)
def _known_block():
    """diffusers' hooks know blocks by their class."""
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    TransformerBlockRegistry.register(Block, TransformerBlockMetadata(return_hidden_states_index=0))


def predictions(guider: object, network: nn.Module, step: int = 1, steps: int = 5) -> dict[str, torch.Tensor]:
    """What the network returns for each batch of a step, from inputs 0 (conditional) and 5 (unconditional)."""
    guider.set_state(step, steps, torch.tensor(1.0))
    made = {}
    for batch in guider.prepare_inputs({"hidden_states": (torch.zeros(1, 1, 1), torch.full((1, 1, 1), 5.0))}):
        guider.prepare_models(network)
        made[getattr(batch, guider._identifier_key)] = network(batch.hidden_states)
        guider.cleanup_models(network)
    return {name: float(value) for name, value in made.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SkipLayerGuidance", {"skip_layer_guidance_layers": [0, 2], **ALWAYS}),
        ("SkipLayerGuidance", {"skip_layer_guidance_layers": 1, **ALWAYS}),
        ("AutoGuidance", {"auto_guidance_layers": [0, 2], "dropout": 1.0}),
    ],
)
def test_layers_may_be_numbers(name, options):
    with pytest.raises(TypeError, match="has no len"):
        predictions(getattr(ROOM, name)(**options), Network())
    made = predictions(getattr(guiders, name)(**options), Network())
    skipped = made.get("pred_cond_skip", made["pred_uncond"])
    base = 0.0 if "pred_cond_skip" in made else 5.0
    assert skipped == base + (101.0 if options.get("skip_layer_guidance_layers") == 1 else 10.0)
    assert made["pred_cond"] == 111.0


def test_a_perturbation_without_guidance_is_of_the_conditional_prediction():
    options = {"guidance_scale": 1.0, "skip_layer_config": LayerSkipConfig([1]), **ALWAYS}
    assert predictions(ROOM.SkipLayerGuidance(**options), Network()) == {"pred_cond": 111.0, "pred_cond_skip": 116.0}
    assert predictions(guiders.SkipLayerGuidance(**options), Network()) == {"pred_cond": 111.0, "pred_cond_skip": 101.0}


@pytest.mark.parametrize("name", ["SkipLayerGuidance", "PerturbedAttentionGuidance", "SmoothedEnergyGuidance"])
def test_the_term_does_not_change_where_guidance_goes_to_one(name):
    cond, uncond, worse = (*outputs(1, 4), outputs(1, 4)[0])
    key = "pred_cond_seg" if name == "SmoothedEnergyGuidance" else "pred_cond_skip"

    def result(room: object, scale: float) -> torch.Tensor:
        guider = getattr(room, name)(guidance_scale=scale, **LAYERS[name])
        return guider.forward(cond, uncond, **{key: worse}).pred

    assert (result(ROOM, 1.0) - result(ROOM, 1 + 1e-6)).abs().max() > 0.01
    torch.testing.assert_close(result(guiders, 1.0), result(guiders, 1 + 1e-8), rtol=1e-6, atol=1e-6)


def test_few_steps_have_their_share_of_the_term():
    def steps(room: object, n: int, **options: object) -> list[int]:
        return guided_steps(room.SkipLayerGuidance(1.0, **LAYERS["SkipLayerGuidance"], **options), n)

    assert steps(ROOM, 20) == steps(guiders, 20) == [1, 2, 3]
    assert steps(ROOM, 8) == []
    assert steps(guiders, 8) == [1]
    first = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.5}
    assert steps(ROOM, 4, **first) == [1]
    assert steps(guiders, 4, **first) == [0, 1]


def test_windows_are_not_rounded_down():
    def steps(room: object, n: int, **options: float) -> list[int]:
        return guided_steps(room.ClassifierFreeGuidance(**options), n)

    assert steps(ROOM, 100, start=0.29)[0] == 28
    assert steps(guiders, 100, start=0.29)[0] == 29
    assert steps(ROOM, 100, stop=0.58)[-1] == 56
    assert steps(guiders, 100, stop=0.58)[-1] == 57
    assert steps(ROOM, 10, stop=0.75)[-1] == 6
    assert steps(guiders, 10, stop=0.75)[-1] == 7  # 7 / 10 < 0.75


def test_guidance_lasts_where_a_scheduler_evaluates_twice_a_step():
    assert guided_steps(ROOM.ClassifierFreeGuidance(), 4, evaluations=7) == [0, 1, 2, 3]
    assert guided_steps(guiders.ClassifierFreeGuidance(), 4, evaluations=7) == [0, 1, 2, 3, 4, 5, 6]


def test_the_second_run_is_given_a_negative_prompt_too():
    for room, expected in ((ROOM, 1), (guiders, 2)):
        guider = room.ClassifierFreeGuidance(stop=0.5)
        for i in range(4):
            step(guider, i, 4, outputs(1, 4))
        assert guider.num_conditions == expected  # pipelines encode a negative prompt if it is above 1


def test_positional_arguments_are_copied():
    assert ROOM.ClassifierFreeGuidance(3.0).new().guidance_scale == 7.5
    assert guiders.ClassifierFreeGuidance(3.0).new().guidance_scale == 3.0


def test_one_configuration_serves_networks_with_other_names_of_blocks():
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = Network().transformer_blocks

        forward = lambda self, hidden_states: self.blocks[0](hidden_states)  # noqa: E731

    for room in (ROOM, guiders):
        guider = room.SkipLayerGuidance(1.5, skip_layer_config=LayerSkipConfig([0]), **ALWAYS)
        predictions(guider, Network())
        if room is ROOM:
            with pytest.raises(ValueError, match="transformer_blocks"):
                predictions(guider, Other())
        else:
            assert predictions(guider, Other())["pred_cond_skip"] == 0.0


def test_a_call_that_fails_leaves_nothing_on_the_network():
    for room, left in ((ROOM, 101.0), (guiders, 111.0)):
        guider, network = room.SkipLayerGuidance(skip_layer_config=LayerSkipConfig([1]), **ALWAYS), Network()
        guider.set_state(0 if room is guiders else 1, 5, torch.tensor(1.0))
        for _ in guider.prepare_inputs({"hidden_states": (torch.zeros(1), torch.ones(1))}):
            guider.prepare_models(network)  # and the call raises, so that nothing is cleaned up
        guider.set_state(0, 5, torch.tensor(1.0))  # the next run
        assert float(network(torch.zeros(1, 1, 1))) == left


def test_blocks_of_two_streams_keep_their_order():
    def guider(room: object) -> object:
        return room.SkipLayerGuidance(skip_layer_config=LayerSkipConfig([1]), **ALWAYS)

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler
    with pytest.raises(RuntimeError, match="shape"):
        modular.latents(modular.sd3(scheduler(), guider(ROOM)), 3)
    assert torch.isfinite(modular.latents(modular.sd3(scheduler(), guider(guiders)), 3)).all()


@pytest.mark.parametrize("make", [modular.sd3, modular.wan])
def test_perturbed_attention_runs_in_the_pipelines(make):
    options = {"perturbed_guidance_layers": [1], "perturbed_guidance_start": 0.0, "perturbed_guidance_stop": 1.0}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler
    with pytest.raises(ValueError, match="not registered"):
        modular.latents(make(scheduler(), ROOM.PerturbedAttentionGuidance(**options)), 5)
    made = make(scheduler(), guiders.PerturbedAttentionGuidance(**options))
    plain = make(scheduler(), guiders.ClassifierFreeGuidance())
    assert (modular.latents(made, 5) - modular.latents(plain, 5)).abs().max() > 1e-4


def test_perturbed_layers_may_be_one_number():
    options = {"perturbed_guidance_layers": 1, "perturbed_guidance_start": 0.0, "perturbed_guidance_stop": 1.0}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler
    with pytest.raises(TypeError, match="has no len"):
        modular.latents(modular.wan(scheduler(), ROOM.PerturbedAttentionGuidance(**options)), 5)
    modular.latents(modular.wan(scheduler(), guiders.PerturbedAttentionGuidance(**options)), 5)


def test_smoothed_energy_guidance_has_an_effect():
    options = {"seg_guidance_layers": [1], "seg_guidance_start": 0.0, "seg_guidance_stop": 1.0}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler
    images = {}
    for room in (ROOM, guiders):
        guider = room.SmoothedEnergyGuidance(**options)
        images[room] = modular.latents(modular.wan(scheduler(), guider), 3)
    # u + g (c - u) + s (c - c), with a call of the network for the second c
    plain = modular.latents(modular.wan(scheduler(), ROOM.ClassifierFreeGuidance()), 3)
    torch.testing.assert_close(images[ROOM], plain)
    assert (images[guiders] - plain).abs().max() > 1e-4


def test_finite_blur_is_a_gaussian_and_infinite_blur_the_mean(monkeypatch):
    query = torch.randn(1, 16, 4)
    mean = query.mean(dim=1, keepdim=True).expand_as(query)
    assert torch.allclose(_gaussian_blur_2d(query.clone(), 7, 1.0, 9999.0), mean)  # diffusers, sigma = 1
    seen = []
    monkeypatch.setattr("fastdiff.guiders.layers.blurred_queries", lambda network, layers, sigma: seen.append(sigma))
    for sigma in (1.0, 1e6):
        guider = guiders.SmoothedEnergyGuidance(
            seg_blur_sigma=sigma, seg_blur_threshold_inf=1e5, **LAYERS["SmoothedEnergyGuidance"]
        )
        with pytest.raises(AttributeError):
            guider._perturb(Network())
    assert seen == [1.0, float("inf")]


def test_dropout_works_in_blocks_of_two_streams_and_is_seeded():
    options = {"auto_guidance_layers": [1], "dropout": 0.3}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler
    as_config = {"auto_guidance_config": LayerSkipConfig([1], dropout=0.3)}
    with pytest.raises(TypeError, match="must be Tensor, not tuple"):
        modular.latents(modular.sd3(scheduler(), ROOM.AutoGuidance(**as_config)), 3)
    images = [modular.latents(modular.sd3(scheduler(), guiders.AutoGuidance(**options)), 3) for _ in range(2)]
    assert torch.equal(*images)
    state = torch.get_rng_state()
    modular.latents(modular.sd3(scheduler(), guiders.AutoGuidance(**options)), 3)
    assert torch.equal(state, torch.get_rng_state())


def test_mambo_g_takes_latents():
    cond, uncond = outputs(2, 4, 8, 8)
    with pytest.raises(RuntimeError, match="linalg"):
        ROOM.MagnitudeAwareGuidance().forward(cond, uncond)
    tokens = ROOM.MagnitudeAwareGuidance().forward(cond.flatten(2), uncond.flatten(2)).pred
    torch.testing.assert_close(guiders.MagnitudeAwareGuidance().forward(cond, uncond).pred.flatten(2), tokens)


def test_tangential_guidance_knows_its_batches():
    for room in (ROOM, guiders):
        guider = room.TangentialClassifierFreeGuidance()
        guider.set_state(0, 5, torch.tensor(1.0))
        guider.prepare_models(nn.Identity())
        if room is ROOM:
            with pytest.raises(AttributeError, match="is_conditional"):
                _ = guider.is_conditional
        else:
            assert guider.is_conditional
            guider.prepare_models(nn.Identity())
            assert guider.is_unconditional


def test_the_zero_step_of_zero_star_is_zero_with_rescaling_and_evaluates_once():
    for room, calls in ((ROOM, 2), (guiders, 1)):
        guider = room.ClassifierFreeZeroStarGuidance(guidance_rescale=0.5)
        result = step(guider, 0, 5, outputs(1, 4, 4, 4))
        assert result.isnan().all() if room is ROOM else torch.equal(result, torch.zeros_like(result))
        guider.set_state(0, 5, torch.tensor(1.0))
        assert len(guider.prepare_inputs({"text": (torch.zeros(1), torch.ones(1))})) == calls


def test_the_mixed_guider_projects_from_the_step_that_is_named():
    predictions = [outputs(1, 4, 4, 4) for _ in range(7)]
    for room, first in ((ROOM, 6), (guiders, 5)):
        mixed, plain = room.AdaptiveProjectedMixGuidance(), ROOM.ClassifierFreeGuidance(3.5)
        same = [torch.allclose(step(mixed, i, 9, p), step(plain, i, 9, p)) for i, p in enumerate(predictions)]
        assert same == [i < first for i in range(7)]


def test_a_run_that_begins_at_another_step_has_its_momentum():
    predictions = [outputs(1, 4, 4, 4) for _ in range(2)]
    for room in (ROOM, guiders):
        late, early = (room.AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5) for _ in range(2))
        results = [
            [step(guider, first + i, 9, predictions[i]) for i in range(2)] for guider, first in ((late, 4), (early, 0))
        ]
        assert torch.allclose(results[0][1], results[1][1]) == (room is guiders)


def test_half_precision_norms_do_not_overflow():
    cond = torch.full((1, 4, 256, 256), 200.0, dtype=torch.float16)
    uncond = torch.zeros_like(cond)
    options = {"guidance_scale": 2.0, "adaptive_projected_guidance_rescale": 1e5}
    assert torch.equal(ROOM.AdaptiveProjectedGuidance(**options).forward(cond, uncond).pred, uncond)  # 1e5 / inf
    expected = 2 * cond.double() * 1e5 / (200.0 * 512.0)
    result = guiders.AdaptiveProjectedGuidance(**options).forward(cond, uncond).pred
    torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "options",
    [{"guidance_scales": [1.0, 5.0]}, {"guidance_scales": [5.0, 1.0]}, {"start": [0.0, 0.5]}, {"stop": [0.5, 1.0]}],
)
def test_bands_may_be_left_alone(options, monkeypatch):
    from diffusers.guiders import frequency_decoupled_guidance as module

    from fastdiff.guidance.pyramid import collapse, laplacian_pyramid

    # kornia's functions by ours, which are the same
    monkeypatch.setattr(module, "_CAN_USE_KORNIA", True)
    monkeypatch.setattr(module, "build_laplacian_pyramid_func", lambda x, n: laplacian_pyramid(x, n, (2, 3)))
    double = lambda x: collapse([x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), x], (2, 3))  # noqa: E731
    monkeypatch.setattr(module, "upsample_and_blur_func", double)
    cond, uncond = outputs(1, 4, 16, 16)
    i = 3 if "stop" in options else 1
    with pytest.raises((UnboundLocalError, RuntimeError)):
        step(ROOM.FrequencyDecoupledGuidance(**options), i, 4, (cond, uncond))
    scales = options.get("guidance_scales", [10.0, 5.0])
    scales = [1.0 if "stop" in options else scales[0], 1.0 if "start" in options else scales[1]]
    bands = laplacian_pyramid(cond - uncond, 2, (2, 3))
    expected = uncond + collapse([g * band for g, band in zip(scales, bands, strict=True)], (2, 3))
    torch.testing.assert_close(step(guiders.FrequencyDecoupledGuidance(**options), i, 4, (cond, uncond)), expected)


def test_bands_do_not_need_kornia(monkeypatch):
    from diffusers.guiders import frequency_decoupled_guidance as module

    monkeypatch.setattr(module, "_CAN_USE_KORNIA", False)
    with pytest.raises(ImportError, match="kornia"):
        ROOM.FrequencyDecoupledGuidance()
    assert guiders.FrequencyDecoupledGuidance().num_conditions == 2

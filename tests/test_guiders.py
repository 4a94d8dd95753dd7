"""diffusers' guiders on fastdiff: the same names, constructors, configurations and results."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys

import diffusers
import pytest
import torch
from guider_cases import LAYERS, TWO_OUTPUTS, outputs, step

import fastdiff as fd
from fastdiff import guiders

ROOM = diffusers.guiders
SHAPES = [(2, 4, 8, 6), (1, 20, 8), (3, 4, 3, 4, 4)]


def test_every_guider_of_diffusers_is_here():
    theirs = {name for name, cls in vars(ROOM).items() if inspect.isclass(cls) and issubclass(cls, ROOM.BaseGuidance)}
    assert set(guiders.__all__) == theirs - {"BaseGuidance"}


@pytest.mark.parametrize("name", guiders.__all__)
def test_a_guider_is_one_of_diffusers_with_an_interval(name):
    ours, theirs = getattr(guiders, name), getattr(ROOM, name)
    assert issubclass(ours, theirs)
    assert getattr(fd, name) is ours
    parameters = dict(inspect.signature(ours.__init__).parameters)
    assert parameters.pop("guidance_interval").default is None
    assert parameters == dict(inspect.signature(theirs.__init__).parameters)


def test_importing_fastdiff_does_not_import_diffusers():
    code = """import sys, fastdiff as fd
assert "diffusers" not in sys.modules
fd.guiders
assert "diffusers" in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "options"), TWO_OUTPUTS)
def test_the_results_are_those_of_diffusers(name, options, shape):
    ours, theirs = (getattr(room, name)(**options) for room in (guiders, ROOM))
    for i in range(4):
        predictions = outputs(*shape)
        result, expected = (step(guider, i, 4, predictions) for guider in (ours, theirs))
        # TCFG's singular vectors and CFG-Zero*'s scale are made in float32 there
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_mambo_g_is_its_formula():
    cond, uncond = outputs(2, 4, 8, 8)
    ratio = [float((c - u).norm() / u.norm()) for c, u in zip(cond, uncond, strict=True)]
    scale = torch.tensor([1 + 4.0 * math.exp(-3.0 * r) for r in ratio], dtype=torch.float64).view(2, 1, 1, 1)
    guider = guiders.MagnitudeAwareGuidance(5.0, alpha=3.0)
    torch.testing.assert_close(guider.forward(cond, uncond).pred, uncond + scale * (cond - uncond))
    original = guiders.MagnitudeAwareGuidance(4.0, alpha=3.0, use_original_formulation=True)
    torch.testing.assert_close(original.forward(cond, uncond).pred, uncond + scale * (cond - uncond))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["ClassifierFreeGuidance", "AdaptiveProjectedGuidance", "MagnitudeAwareGuidance"])
def test_halves_come_back_as_halves_and_are_those_of_float64(name, dtype):
    cond, uncond = outputs(2, 4, 8, 8, dtype=dtype)
    result = getattr(guiders, name)().forward(cond, uncond).pred
    exact = getattr(guiders, name)().forward(cond.double(), uncond.double()).pred
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=torch.finfo(dtype).eps * float(exact.abs().max()))


def test_three_terms_are_summed():
    cond, uncond, stg, modality = (*outputs(2, 5, 4), *outputs(2, 5, 4))
    guider = guiders.LTX2Guidance(3.0, stg_scale=0.7, modality_scale=2.5)
    assert guider.active_predictions() == ["pred_cond", "pred_uncond", "pred_cond_stg", "pred_cond_modality"]
    expected = cond + 2.0 * (cond - uncond) + 0.7 * (cond - stg) + 1.5 * (cond - modality)
    torch.testing.assert_close(
        guider.forward(cond, uncond, pred_cond_stg=stg, pred_cond_modality=modality).pred, expected
    )
    alone = guiders.LTX2Guidance(modality_scale=2.5)
    assert [alone.is_cfg_enabled(), alone.is_stg_enabled(), alone.is_modality_enabled()] == [False, False, True]
    torch.testing.assert_close(alone.forward(cond, pred_cond_modality=modality).pred, cond + 1.5 * (cond - modality))


@pytest.mark.parametrize("name", guiders.__all__)
def test_configurations_are_read_both_ways_and_saved(name, tmp_path):
    options = {**LAYERS.get(name, {}), "stop": 0.75}
    ours = getattr(guiders, name)(**options)
    theirs = getattr(ROOM, name)
    public = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    assert "guidance_interval" not in public
    ours.save_pretrained(tmp_path)
    for cls in (type(ours), theirs):
        if name == "FrequencyDecoupledGuidance" and cls is theirs:
            continue  # needs kornia
        assert cls.from_pretrained(tmp_path)._stop == cls.from_config(ours.config)._stop == 0.75
        assert {key: cls.from_config(ours.config).config[key] for key in public} == public


def test_the_interval_is_saved_and_copied(tmp_path):
    guider = guiders.ClassifierFreeGuidance(3.0, guidance_interval=(0.3, 5))
    guider.save_pretrained(tmp_path)
    for copy in (guider.new(), type(guider).from_pretrained(tmp_path), type(guider).from_config(guider.config)):
        assert copy.guidance_interval == (0.3, 5.0)
    assert guider.new(guidance_interval=None).guidance_interval is None


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ValueError, match="guidance_interval"):
        guiders.ClassifierFreeGuidance(guidance_interval=interval)


def test_a_missing_prediction_is_named():
    with pytest.raises(ValueError, match="pred_uncond"):
        guiders.ClassifierFreeGuidance().forward(torch.ones(1, 4))
    guider = guiders.SkipLayerGuidance(**LAYERS["SkipLayerGuidance"])
    with pytest.raises(ValueError, match="pred_cond_skip"):
        guider.forward(torch.ones(1, 4), torch.ones(1, 4))


def test_without_guidance_the_conditional_output_itself_comes_back():
    cond, uncond = outputs(1, 4)
    for guider in (guiders.ClassifierFreeGuidance(1.0), guiders.AdaptiveProjectedGuidance(enabled=False)):
        assert guider.num_conditions == 1
        assert guider.forward(cond, uncond).pred is cond
        assert guider.forward(cond).pred is cond


def test_constant_outputs_are_not_divided_by_their_deviation():
    flat = torch.full((2, 4, 4, 4), 0.5)
    for name in ("ClassifierFreeGuidance", "AdaptiveProjectedGuidance", "TangentialClassifierFreeGuidance"):
        assert torch.isfinite(getattr(guiders, name)(guidance_rescale=0.7).forward(flat, 0 * flat).pred).all()
        assert torch.equal(getattr(guiders, name)(guidance_rescale=0.7).forward(0 * flat, 0 * flat).pred, 0 * flat)


@pytest.mark.parametrize("dims", [0, [0, 1], 4, []])
def test_norms_are_over_dimensions_of_a_sample(dims):
    guider = guiders.AdaptiveProjectedGuidance(adaptive_projected_guidance_norm_dim=dims)
    with pytest.raises(ValueError, match="adaptive_projected_guidance_norm_dim"):
        guider.forward(*outputs(2, 4, 8, 8))


@pytest.mark.parametrize("name", guiders.__all__)
def test_a_sample_does_not_depend_on_its_batch(name):
    guider = getattr(guiders, name)(**LAYERS.get(name, {}))
    cond, uncond, third = (*outputs(3, 4, 6, 6), outputs(3, 4, 6, 6)[0])
    extra = dict.fromkeys(guider._input_predictions[2:], third)
    batch = guider.forward(cond, uncond, **extra).pred
    for k in range(3):
        one = {key: value[k : k + 1] for key, value in extra.items()}
        alone = guider.forward(cond[k : k + 1], uncond[k : k + 1], **one).pred
        torch.testing.assert_close(batch[k : k + 1], alone, rtol=1e-12, atol=1e-12)


def test_a_guider_prints_its_configuration_and_its_state():
    text = repr(guiders.AdaptiveProjectedMixGuidance())
    assert '"adaptive_projected_guidance_scale": 10.0' in text
    assert "num_conditions: 2" in text


def test_outputs_carry_no_gradients():
    cond, uncond = (t.requires_grad_() for t in outputs(1, 4))
    assert not guiders.ClassifierFreeGuidance().forward(cond, uncond).pred.requires_grad


@pytest.mark.parametrize("name", guiders.__all__)
def test_predictions_may_be_parts_of_other_tensors(name):
    guider, same = (getattr(guiders, name)(**LAYERS.get(name, {})) for _ in range(2))
    shape = (2, 6, 8, 8)
    cond, uncond, third = (*outputs(*shape, dtype=torch.float32), outputs(*shape, dtype=torch.float32)[0])
    cond, uncond, third = cond[:, :4], uncond.transpose(2, 3)[:, :4], third.to(memory_format=torch.channels_last)[:, 2:]
    extra = dict.fromkeys(guider._input_predictions[2:], third)
    dense = {key: value.contiguous() for key, value in extra.items()}
    result = guider.forward(cond, uncond, **extra).pred
    torch.testing.assert_close(result, same.forward(cond.contiguous(), uncond.contiguous(), **dense).pred)

"""Networks in fastdiff.sample as they are: output objects, times behind the prompt, learned variances."""

from __future__ import annotations

import pytest
import tiny_flow_pipelines as flow
import tiny_pipelines as tiny
import torch
from torch import Tensor, nn

import fastdiff as fd

VP = fd.Schedule.scaled_linear()
PLAN = fd.plan("dpmpp_2m", VP, 3)
NOISE = torch.randn(2, 4, 8, 8)


def run(model: object, plan: fd.Plan = PLAN, noise: Tensor = NOISE, **given: object) -> Tensor:
    return fd.sample(model, plan, noise, **given)


def test_an_output_object_is_read_as_its_sample():
    unet, text = tiny.text_unet(), tiny.tensor(2, tiny.TOKENS, tiny.WIDTH)
    expected = run(lambda x, t: unet(x, t, text).sample)
    torch.testing.assert_close(run(unet, encoder_hidden_states=text), expected, rtol=0, atol=0)
    torch.testing.assert_close(run(unet, encoder_hidden_states=text, return_dict=False), expected, rtol=0, atol=0)


def dit() -> tuple[nn.Module, dict]:
    net = tiny.transformer("DiTTransformer2DModel", in_channels=4, out_channels=8, sample_size=8, norm_num_groups=4)
    return net, {"class_labels": torch.tensor([3, 7])}


def pixart() -> tuple[nn.Module, dict]:
    net = tiny.transformer(
        "PixArtTransformer2DModel", in_channels=4, out_channels=8, sample_size=8, cross_attention_dim=32,
        caption_channels=tiny.WIDTH, use_additional_conditions=False, norm_num_groups=4,
    )  # fmt: skip
    added = {"resolution": None, "aspect_ratio": None}
    return net, {"encoder_hidden_states": tiny.tensor(2, tiny.TOKENS, tiny.WIDTH), "added_cond_kwargs": added}


@pytest.mark.parametrize("build", [dit, pixart])
@pytest.mark.parametrize("return_dict", [True, False])
def test_the_first_half_is_read_of_a_network_that_learns_a_variance(build: object, return_dict: bool):
    net, given = build()
    expected = run(lambda x, t: net(x, timestep=t, **given).sample[:, :4])
    torch.testing.assert_close(run(net, **given, return_dict=return_dict), expected, rtol=0, atol=0)


def test_guidance_reads_the_first_half_too_in_one_call_and_in_two():
    net, given = dit()
    empty = {"class_labels": torch.tensor([1000, 1000])}

    def halves(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return net(x, t, class_labels).sample[:, :4]

    expected = run(halves, **given, guidance=3.0, uncond=empty)
    for guidance in (3.0, fd.guidance.APG(3.0, eta=1.0)):
        for mode in ("batch", "calls"):
            drawn = run(net, **given, guidance=guidance, uncond=empty, guidance_mode=mode)
            torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-3)


def test_a_time_behind_the_prompt_is_given_by_its_name():
    net = flow.network(
        "SanaTransformer2DModel", patch_size=1, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=8, sample_size=8,
    )  # fmt: skip
    text, plan = tiny.tensor(2, 5, 8), fd.plan("euler", fd.Schedule.flow(), 3)
    expected = run(lambda x, t: net(x, encoder_hidden_states=text, timestep=t).sample, plan)
    torch.testing.assert_close(run(net, plan, encoder_hidden_states=text), expected, rtol=0, atol=0)


class Late(nn.Module):
    def forward(self, x: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        return 0.1 * x * timestep.view(-1, 1, 1, 1) + text


def test_a_compiled_network_is_called_as_the_network_that_it_is():
    expected = run(lambda x, t: Late()(x, 0.5, t))
    compiled = torch.compile(Late(), backend="eager")
    torch.testing.assert_close(run(compiled, text=0.5), expected, rtol=1e-6, atol=1e-6)


class Wide(nn.Module):
    """Twice as many channels as it reads."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([0.1 * x, x], 1)


def test_a_width_that_the_network_does_not_explain_is_refused():
    with pytest.raises(ValueError, match="if the second half of the channels is a learned variance"):
        run(Wide())
    explained = Wide()
    explained.learn_sigma = True
    torch.testing.assert_close(run(explained), run(lambda x, t: 0.1 * x), rtol=0, atol=0)
    explained.learn_sigma = False
    with pytest.raises(ValueError, match="if the second half of the channels is a learned variance"):
        run(explained)

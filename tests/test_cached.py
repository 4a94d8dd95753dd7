"""Cheap calls: part of a network is not run, and what it gave at an earlier call takes its place."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff import demo

DIGITS = fd.Split(
    ("shrink.0", "down.1.0", "down.1.1", "middle.0", "up.0.0", "up.0.1", "grow.0")  # all at the lower resolution
)


class Polynomial(nn.Module):
    """m = outer x + inner(x, t), whose inner part is a polynomial in t."""

    def __init__(self, degree: int = 1) -> None:
        super().__init__()
        self.outer, self.inner = nn.Linear(3, 3), Powers(degree)

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        return self.outer(x) + self.inner(x, t) + shift


class Powers(nn.Module):
    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree, self.weight_of = degree, nn.Linear(degree, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight_of(torch.stack([t ** (1 + k) for k in range(self.degree)], dim=1))


def unet() -> tuple[nn.Module, Tensor, dict]:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return network, torch.randn(2, 4, 8, 8), {"encoder_hidden_states": torch.randn(2, 3, 8)}


def sd3() -> tuple[nn.Module, Tensor, dict]:
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    given = {"encoder_hidden_states": torch.randn(2, 3, 8), "pooled_projections": torch.randn(2, 8)}
    return network, torch.randn(2, 4, 8, 8), given


def flux() -> tuple[nn.Module, Tensor, dict]:
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(0, 2, 2),
    )  # fmt: skip
    given = {
        "encoder_hidden_states": torch.randn(2, 3, 8), "pooled_projections": torch.randn(2, 8),
        "txt_ids": torch.zeros(3, 3), "img_ids": torch.randn(6, 3),
    }  # fmt: skip
    return network, torch.randn(2, 6, 4), given


def pixart() -> tuple[nn.Module, Tensor, dict]:
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        sample_size=8, num_layers=3, patch_size=2, attention_head_dim=4, num_attention_heads=2, in_channels=4,
        cross_attention_dim=8, caption_channels=8, out_channels=8, use_additional_conditions=False, norm_num_groups=4,
    )  # fmt: skip
    given = {
        "encoder_hidden_states": torch.randn(2, 3, 8),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return network, torch.randn(2, 4, 8, 8), given


def wan() -> tuple[nn.Module, Tensor, dict]:
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=8, ffn_dim=8, num_layers=3, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=8,
    )  # fmt: skip
    return network, torch.randn(2, 4, 1, 4, 4), {"encoder_hidden_states": torch.randn(2, 3, 8)}


@pytest.mark.parametrize("make", [unet, sd3, flux, pixart, wan])
def test_a_cheap_call_at_the_same_point_is_the_full_one_and_runs_less(make):
    network, x, given = make()
    network.eval().requires_grad_(False)
    model, t = fd.cached(network), torch.tensor([0.3, 0.3])
    m, state = model.full(x, t, **given)
    ran = []
    hooks = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in network.modules()]
    again = model.cheap(x, t, state, **given)
    for hook in hooks:
        hook.remove()
    # out - in + in: an error of rounding, beside outputs of order 1
    torch.testing.assert_close(again, m, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m, model(x, t, **given), rtol=0, atol=0)
    inside = [
        part
        for split in model.splits
        for name in split.skip
        for part in list(network.get_submodule(name).modules())[1:]
    ]
    assert inside
    assert not set(inside) & set(ran)
    assert not any("forward" in vars(module) for module in network.modules())
    # What is outside of the stretch is computed anew.
    assert not torch.equal(model.cheap(x + 1, t, state, **given), m)


def test_a_declared_split_serves_any_network():
    model = fd.cached(demo.load_model(), split=DIGITS)
    x, t, y = torch.randn(3, 1, 8, 8), torch.full((3,), 400.0), torch.tensor([1, 2, 10])
    m, state = model.full(x, t, y=y)
    assert torch.equal(model.cheap(x, t, state, y=y), m)
    assert not torch.equal(model.cheap(x, t - 50, state, y=y), m)


@pytest.mark.parametrize("order", [1, 2])
def test_an_order_is_exact_where_the_kept_part_is_a_polynomial_in_the_time_of_each_sample(order):
    network = Polynomial(order).double()
    model = fd.cached(network, split=fd.Split(("inner",)), order=order)
    x = torch.randn(4, 3, dtype=torch.float64)
    times = torch.rand(5, 4, dtype=torch.float64) + 3 * torch.arange(5)[:, None]
    state = None
    with torch.no_grad():
        for t in times[:4]:  # one call more than is kept
            _, state = model.full(x, t, state)
        torch.testing.assert_close(model.cheap(x, times[4], state), network(x, times[4]), rtol=1e-9, atol=1e-9)
        # A second full call at one time says nothing more.
        for _ in range(order):
            _, state = model.full(x, times[3], state)
        torch.testing.assert_close(model.cheap(x, times[4], state), network(x, times[3]), rtol=1e-9, atol=1e-9)


def test_where_the_log_snr_is_given_it_is_what_the_kept_part_is_linear_in_and_pure_noise_says_nothing():
    network = Polynomial().double()
    model = fd.cached(network, split=fd.Split(("inner",)), order=1)
    x, times = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 3 * torch.arange(4)
    state = None
    with torch.no_grad():
        for t, log_snr in zip(times, (-math.inf, 1.0, 2.0), strict=False):
            if log_snr == 2.0:  # of the two calls until here one was of pure noise
                kept = model.cheap(x, times[3].expand(4), state, log_snr=log_snr)
                torch.testing.assert_close(kept, network(x, times[1].expand(4)), rtol=1e-9, atol=1e-9)
            _, state = model.full(x, t.expand(4), state, log_snr=log_snr)
        half = model.cheap(x, times[3].expand(4), state, log_snr=2.5)
        expected = network(x, (times[2] + (times[2] - times[1]) / 2).expand(4))
        torch.testing.assert_close(half, expected, rtol=1e-9, atol=1e-9)


def plan_of(steps: int = 6) -> fd.Plan:
    return fd.plan("dpmpp_2m", fd.Schedule.cosine(1000), steps=steps, prediction="v_prediction").with_calls(
        ["full", "cheap", "cheap"]
    )


def by_hand(model: fd.Cached, plan: fd.Plan, noise: Tensor, scale: float, labels: list[Tensor]) -> Tensor:
    """The run with every state in a list, one for each evaluation."""
    states: list = [None] * len(labels)
    rows = iter(plan.rows)

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        row, outputs = next(rows), []
        for i, y in enumerate(labels):
            if row.call == "full":
                m, states[i] = model.full(x, t, states[i], y=y, log_snr=row.log_snr)
            else:
                m = model.cheap(x, t, states[i], y=y, log_snr=row.log_snr)
            outputs.append(m)
        return outputs[-1] + (scale - 1) * (outputs[-1] - outputs[0])

    return fd.sample(evaluate, plan.with_calls(["full"]), noise)


@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("order", [0, 1])
def test_sample_makes_the_calls_that_the_rows_ask_for_each_evaluation_with_its_own_state(mode, order):
    model, plan = fd.cached(demo.load_model(), split=DIGITS, order=order), plan_of()
    noise, y, none = torch.randn(4, 1, 8, 8), torch.tensor([1, 3, 5, 7]), torch.full((4,), 10)
    x = fd.sample(model, plan, noise, guidance=2.0, uncond={"y": none}, guidance_mode=mode, y=y)
    # float32 sums in another order, over six steps
    torch.testing.assert_close(x, by_hand(model, plan, noise, 2.0, [none, y]), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(
        x, fd.sample(model, plan.with_calls(["full"]), noise, guidance=2.0, uncond={"y": none}, y=y)
    )


def test_interleaved_runs_are_what_they_are_alone():
    model, plan = fd.cached(demo.load_model(), split=DIGITS, order=1), plan_of()
    noises = torch.randn(2, 3, 1, 8, 8)
    runs = [fd.iter_sample(model, plan, noise) for noise in noises]
    for both in zip(*runs, strict=True):
        last = [step.x for step in both]
    for noise, x in zip(noises, last, strict=True):
        assert torch.equal(x, fd.sample(model, plan, noise))


def test_each_micro_batch_has_its_own_state():
    model = fd.cached(demo.load_model(), split=DIGITS)
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 500.0)
    states = [model.full(x[part], t[part])[1] for part in (slice(0, 2), slice(2, 4))]
    later = [model.cheap(x[part] + 0.1, t[part] - 100, states[k]) for k, part in ((1, slice(2, 4)), (0, slice(0, 2)))]
    whole = model.cheap(x + 0.1, t - 100, model.full(x, t)[1])
    torch.testing.assert_close(torch.cat(later[::-1]), whole, rtol=1e-3, atol=1e-4)


def test_a_plan_with_cheap_rows_is_refused_where_no_cheap_calls_are_made():
    plan, network = plan_of(), demo.load_model()
    with pytest.raises(TypeError, match=r"fastdiff\.cached\(model\)"):
        fd.sample(network, plan, torch.randn(1, 1, 8, 8))
    scheduler = fd.PlanScheduler(plan)
    with pytest.raises(ValueError, match="plan: it asks for cheap calls"):
        scheduler.step(torch.randn(1, 1, 8, 8), scheduler.timesteps[0], torch.randn(1, 1, 8, 8))
    with pytest.raises(ValueError, match="plan: it asks for cheap calls"):
        fd.capture(fd.cached(network, split=DIGITS), plan, torch.randn(1, 1, 8, 8))


def test_what_cannot_be_is_refused_in_plain_words():
    network = demo.load_model()
    model, x, t = fd.cached(network, split=DIGITS), torch.randn(2, 1, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="needs what a full call returned"):
        model.cheap(x, t, None)
    with pytest.raises(ValueError, match=r"kept from a full call of x \(\(2, 1, 8, 8\)"):
        model.cheap(x[:1], t[:1], model.full(x, t)[1])
    with pytest.raises(ValueError, match="say which modules"):
        fd.cached(network)
    with pytest.raises(ValueError, match="no module 'deep'"):
        fd.cached(network, split=fd.Split(("deep",)))
    with pytest.raises(ValueError, match="levels: expected 1 to 2"):
        fd.cached(unet()[0], levels=3)
    with pytest.raises(TypeError, match=r"network: a model that is no torch\.nn\.Module needs it"):
        fd.cached(lambda x, t: x)


def test_the_cost_is_the_share_of_a_full_call(monkeypatch):
    network, clock = Polynomial(), [0.0]

    def takes(seconds: float) -> Callable[..., None]:
        return lambda *_: clock.__setitem__(0, clock[0] + seconds)

    network.outer.register_forward_pre_hook(takes(1.0))
    network.inner.weight_of.register_forward_pre_hook(takes(3.0))
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert fd.cached(network, split=fd.Split(("inner",))).cost(torch.randn(2, 3), torch.ones(2)) == 0.25

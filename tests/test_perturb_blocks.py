"""Skipped and dropped blocks (SLG, STG, S2), shuffled tokens (TPG), dropped features: what is computed then."""

from __future__ import annotations

import pytest
import torch
from patch_models import close, flux, pixart, sd3, sd15, wan
from test_perturb_attention import hunyuan_video
from torch import nn
from watched_attention import call_of, double, output_of

import fastdiff as fd

IMAGE, TEXT = "hidden_states", "encoder_hidden_states"


class Passes(nn.Module):
    """A block that returns the streams it is given, in an order."""

    def __init__(self, *streams: str) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        given = {IMAGE: hidden_states, TEXT: encoder_hidden_states}
        out = tuple(given[stream] for stream in self.streams)
        return out if len(out) > 1 else out[0]


SKIPPED = {
    "SD 1.5": (sd15, "mid_block", ["mid_block.attentions.0.transformer_blocks.0"], (IMAGE,)),
    "PixArt": (pixart, 1, ["transformer_blocks.1"], (IMAGE,)),
    "Wan": (wan, [0], ["blocks.0"], (IMAGE,)),
    "SD3": (sd3, [0, 2], ["transformer_blocks.0", "transformer_blocks.2"], (TEXT, IMAGE)),
    "Flux": (flux, [1, 2], ["transformer_blocks.1", "single_transformer_blocks.0"], (TEXT, IMAGE)),
    "HunyuanVideo": (hunyuan_video, (0, 1), ["transformer_blocks.0", "single_transformer_blocks.0"], (IMAGE, TEXT)),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_a_skipped_block_returns_its_inputs_also_both_streams(name):
    make, layers, names, streams = SKIPPED[name]
    model = double(make())
    plain = output_of(model)
    call = fd.perturb.skipped_blocks(call_of(model), layers, network=model.module)
    assert call.layers == tuple(names)
    ours = [call(model.arguments[0], 0.5) for _ in range(2)]  # what the first call learns of a block holds for others
    for block in names:
        owner, _, last = block.rpartition(".")
        model.module.get_submodule(owner)[int(last)] = Passes(*streams)
    close(ours[0], output_of(model), 1e-12)
    assert torch.equal(*ours)
    assert not torch.allclose(ours[0], plain)


def test_a_block_that_is_left_out_costs_nothing_from_the_second_call_on():
    model, ran = pixart(), []
    call = fd.perturb.skipped_blocks(call_of(model), 0, network=model.module)
    call(model.arguments[0], 0.5)
    model.module.transformer_blocks[0].attn1.register_forward_hook(lambda *_: ran.append(1))
    call(model.arguments[0], 0.5)
    assert not ran


class Halves(nn.Module):
    def forward(self, x):
        return x.chunk(2, dim=1)


class Shrinks(nn.Module):
    def forward(self, x):
        return x[..., ::2]


@pytest.mark.parametrize(("block", "message"), [(Halves, "a tuple of 2"), (Shrinks, r"Tensor of shape \(2, 4, 3\)")])
def test_a_block_whose_outputs_do_not_stand_for_its_inputs_is_refused(block, message):
    network = nn.ModuleDict({"part": block()})
    call = fd.perturb.skipped_blocks(lambda x, t: network["part"](x), "part", network=network)
    with pytest.raises(RuntimeError, match=rf"part: cannot be skipped, for {block.__name__} returns {message}"):
        call(torch.randn(2, 4, 6), 0.5)


class Chain(nn.Module):
    """Twenty blocks, each of which adds its own number once."""

    class Adds(nn.Module):
        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

        def forward(self, x):
            mark = torch.zeros_like(x)
            mark[..., self.place] = 1
            return x + mark

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Adds(i) for i in range(20))

    def forward(self, x, t):
        for block in self.blocks:
            x = block(x)
        return x


def dropped(call, t) -> list[int]:
    return (call(torch.zeros(1, 3, 20), t)[0, 0] == 0).nonzero().flatten().tolist()


@pytest.mark.parametrize(("p", "count"), [(0.1, 2), (0.25, 5), (0.001, 1), (1.0, 20)])
def test_a_share_of_the_blocks_is_dropped_by_seed_and_time_alone(p, count):
    call = fd.perturb.dropped_blocks(Chain(), range(20), p, seed=7)
    state = torch.random.get_rng_state()
    times = [torch.full((3,), t) for t in (0.1, 0.2, 0.3, 0.7)]
    runs = [dropped(call, t) for t in times]
    assert [len(run) for run in runs] == [count] * 4
    assert [dropped(call, t) for t in reversed(times)] == runs[::-1]  # no memory of the calls before
    assert [dropped(fd.perturb.dropped_blocks(Chain(), range(20), p, seed=7), t) for t in times] == runs
    if p < 1:
        assert len({tuple(run) for run in runs}) > 1
        others = [dropped(fd.perturb.dropped_blocks(Chain(), range(20), p, seed=s), times[0]) for s in range(8)]
        assert len({tuple(run) for run in others}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_block_is_dropped_as_often_as_the_others():
    call = fd.perturb.dropped_blocks(Chain(), range(20), 0.25)
    counts = torch.zeros(20)
    for i in range(800):
        counts[dropped(call, i / 800)] += 1
    assert float(((counts - 200) ** 2 / 150).sum()) < 60  # chi squared of 19 degrees: 3e-6 to be above


class Keeps(nn.Module):
    """Two blocks that return their tokens, and what they were given."""

    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.given = []

        def forward(self, hidden_states, encoder_hidden_states=None):
            self.given.append((hidden_states, encoder_hidden_states))
            return hidden_states

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.Sees(), self.Sees()])

    def forward(self, x, t, text=None):
        return self.blocks[1](hidden_states=self.blocks[0](x, text), encoder_hidden_states=text)


def test_tokens_are_shuffled_alike_for_all_samples_otherwise_in_each_block_and_at_each_time():
    network, x, text = Keeps(), torch.randn(3, 40, 8), torch.randn(3, 4, 8)
    call = fd.perturb.shuffled_tokens(network, [0, 1], seed=3)
    state = torch.random.get_rng_state()
    out = call(x, torch.tensor([0.4] * 3), text=text)
    assert torch.equal(torch.random.get_rng_state(), state)
    orders, before = [], x
    for block in network.blocks:
        ((given, beside),) = block.given
        order = torch.cdist(given[0], before[0]).argmin(1)
        assert torch.equal(given, before[:, order])
        assert sorted(order.tolist()) == list(range(40))
        assert beside is text
        orders.append(order.tolist())
        before = given
    assert orders[0] != orders[1]
    assert orders[0] != list(range(40))
    assert torch.equal(out, before)  # the order is not restored
    assert torch.equal(call(x[1:2], 0.4, text=text[1:2]), out[1:2])  # whatever the batch
    assert not torch.equal(call(x, 0.5), out)
    assert not torch.equal(fd.perturb.shuffled_tokens(network, [0, 1], seed=4)(x, 0.4), out)


def test_what_is_no_sequence_of_tokens_is_not_shuffled():
    network = nn.ModuleDict({"part": nn.Conv2d(2, 2, 1)})
    call = fd.perturb.shuffled_tokens(lambda x, t: network["part"](x), "part", network=network)
    with pytest.raises(RuntimeError, match=r"part: expected tokens \[B, N, C\] to shuffle, got shape \(1, 2, 4, 4\)"):
        call(torch.randn(1, 2, 4, 4), 0.5)


def test_dropout_drops_a_share_of_the_features_and_keeps_the_mean():
    network, x = nn.ModuleDict({"part": nn.Identity()}), torch.full((3, 64, 500), 2.0)
    call = fd.perturb.dropped_features(lambda x, t: network["part"](x), "part", 0.3, seed=5, network=network)
    state = torch.random.get_rng_state()
    out = call(x, 0.5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(2.0) / (1 - 0.3))}
    assert abs(float((out[0] == 0).double().mean()) - 0.3) < 5 * (0.3 * 0.7 / 32000) ** 0.5
    assert torch.equal(out[0], out[2])  # the same for all samples
    assert torch.equal(call(x[:1], torch.tensor([0.5])), out[:1])
    assert not torch.equal(call(x, 0.6), out)


@pytest.mark.parametrize("make", [sd3, flux, hunyuan_video])
def test_dropout_in_blocks_of_two_streams_drops_in_both(make):
    model, given = make(), []
    call = fd.perturb.dropped_features(call_of(model), 0, 0.5, network=model.module)
    lists = ("transformer_blocks", "single_transformer_blocks")
    blocks = [block for name in lists for block in getattr(model.module, name, [])]
    blocks[1].register_forward_pre_hook(lambda m, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    out = call(model.arguments[0], 0.5)
    assert torch.equal(call(model.arguments[0], 0.5), out)
    args, kwargs = given[0]
    streams = [*args[:2], kwargs.get(IMAGE), kwargs.get(TEXT)]
    shares = [float((s == 0).double().mean()) for s in streams if s is not None]
    assert len(shares) == 2
    assert all(0.3 < share < 0.7 for share in shares)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_shares_out_of_range_are_refused(p):
    with pytest.raises(ValueError, match="p: expected a number in"):
        fd.perturb.dropped_features(Chain(), 0, p)
    if p != 1.0:
        with pytest.raises(ValueError, match="p: expected a number in"):
            fd.perturb.dropped_blocks(Chain(), 0, p)

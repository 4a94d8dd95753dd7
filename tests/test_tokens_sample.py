"""fastdiff.tokens.sample: what it promises whatever the model says."""

from __future__ import annotations

import types

import pytest
import torch
from host_reads import HostReads
from token_models import EVERY, MASK, PLANS, SIZE, draw, model, some_given
from torch import Tensor

from fastdiff import tokens as ft


def in_blocks(plan: ft.Plan, block: int) -> ft.Plan:
    return ft.Plan(plan.rule, plan.sizes, block)


@EVERY
@pytest.mark.parametrize("block", [None, 5])
def test_given_tokens_never_change_and_every_mask_becomes_a_token(name: str, block: int | None) -> None:
    tokens, plan = some_given(), in_blocks(PLANS[name], block)
    for step in ft.iter_sample(model, plan, tokens, MASK, vocabulary=SIZE, block_start=2):
        assert torch.equal(step.tokens.where(tokens != MASK, 0), tokens.where(tokens != MASK, 0))
    assert (step.tokens < SIZE).all()
    assert step.finished
    assert not step.left.count_nonzero()


@EVERY
@pytest.mark.parametrize("block", [None, 5])
def test_a_sample_does_not_depend_on_its_batch(name: str, block: int | None) -> None:
    tokens, seeds, plan = some_given(), torch.randint(2**62, (3,)), in_blocks(PLANS[name], block)
    options = {"block_start": 2, "stop": [3, 4], "fill": 7, "top_k": 8} if PLANS[name].rule.reads_rows else {}
    whole = draw(plan, tokens, seeds=seeds, **options)
    for b in range(3):
        assert torch.equal(draw(plan, tokens[b : b + 1], seeds=seeds[b : b + 1], **options), whole[b : b + 1])
    assert not torch.equal(draw(plan, tokens, seeds=seeds + 1, **options), whole)


@EVERY
def test_without_masks_the_model_is_not_called(name: str) -> None:
    tokens = torch.randint(SIZE, (2, 6))
    for given in (tokens, tokens[:0], tokens[:, :0]):
        drawn, calls = ft.sample(pytest.fail, PLANS[name], given, MASK, vocabulary=SIZE, return_evaluations=True)
        assert torch.equal(drawn, given)
        assert calls == 0


@EVERY
def test_rows_with_all_and_with_no_masks_go_together(name: str) -> None:
    tokens = torch.randint(SIZE, (2, 6))
    tokens[0] = MASK
    drawn = draw(PLANS[name], tokens)
    assert torch.equal(drawn[1], tokens[1])
    assert (drawn[0] < SIZE).all()


@EVERY
def test_all_after_a_stop_token_is_filled(name: str) -> None:
    tokens = some_given(8, 16)
    tokens[:, 1] = 3  # which a prompt may have
    for block in (None, 4):
        drawn = draw(in_blocks(PLANS[name], block), tokens, stop=3, fill=5)
        for row, given in zip(drawn.tolist(), (tokens != MASK).tolist(), strict=True):
            made = [token for token, known in zip(row, given, strict=True) if not known]
            ended = made.index(3) if 3 in made else len(made)
            assert set(made[ended + 1 :]) <= {5}


def test_a_run_whose_samples_have_all_stopped_ends() -> None:
    def says_stop(tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full(tokens.shape, 3), SIZE) * 50.0

    plan = ft.plan("confidence", 4, block=4)
    drawn, calls = draw(plan, torch.full((2, 32), MASK), model=says_stop, stop=3, fill=0, return_evaluations=True)
    assert calls <= 4
    assert torch.equal(drawn, torch.tensor([[3] + [0] * 31] * 2))


@EVERY
def test_tokens_of_any_shape_are_those_of_a_line(name: str) -> None:
    tokens, seeds = some_given(2, 12), [4, 5]

    def on_a_plane(tokens: Tensor) -> Tensor:
        return model(tokens.flatten(1)).unflatten(1, (3, 4))

    found = draw(PLANS[name], tokens.view(2, 3, 4), model=on_a_plane, seeds=seeds)
    assert torch.equal(found, draw(PLANS[name], tokens, seeds=seeds).view(2, 3, 4))


def test_blocks_are_made_one_after_the_other_and_each_is_finished_once() -> None:
    tokens, seen = some_given(2, 14), []

    def before_block(tokens: Tensor) -> Tensor:
        seen.append(tokens.clone())
        return model(tokens)

    plan = ft.plan("confidence", 2, block=4)
    steps = list(ft.iter_sample(before_block, plan, tokens, MASK, block_start=2, see_ahead=False))
    assert [s.block for s in steps if s.finished] == [(0, 6), (6, 10), (10, 14)]
    for given, step in zip(seen, steps, strict=True):
        assert given.shape[1] == step.block[1]
        assert (given[:, : step.block[0]] != MASK).all()
        assert not step.changed[:, : step.block[0]].any()
        assert not step.changed[:, step.block[1] :].any()


def test_a_model_may_give_the_logits_of_the_block_alone() -> None:
    tokens, plan, seeds = some_given(2, 12), ft.plan("confidence", 2, block=4), [1, 2]
    found = draw(plan, tokens, seeds=seeds, see_ahead=False, model=lambda x: model(x)[:, -4:])
    assert torch.equal(found, draw(plan, tokens, seeds=seeds, see_ahead=False))


@pytest.mark.parametrize("name", ["confidence", "trapezoidal"])
def test_guidance_mixes_logits(name: str) -> None:
    tokens, seeds = some_given(), [1, 2, 3]
    options = {"guidance": 2.5, "uncond": {"scale": 0.5}, "scale": 1.5, "seeds": seeds}
    right = draw(PLANS[name], tokens, seeds=seeds, scale=0.5 + 2.5 * 1.0)
    assert torch.equal(draw(PLANS[name], tokens, **options, guidance_mode="calls"), right)
    scales = {"scale": torch.full((3,), 1.5), "uncond": {"scale": torch.full((3,), 0.5)}}
    found, calls = draw(PLANS[name], tokens, **{**options, **scales}, return_evaluations=True)
    assert torch.equal(found, right)
    assert calls % 2 == 0
    each = torch.tensor([2.5, 1.0, 2.5])
    found = draw(PLANS[name], tokens, **{**options, **scales, "guidance": each})
    assert torch.equal(found[0], right[0])
    assert torch.equal(found[1], draw(PLANS[name], tokens, seeds=seeds, scale=1.5)[1])


def test_the_unconditional_call_may_have_masks_for_all_that_is_given() -> None:
    tokens, seen = some_given(), []

    def watched(tokens: Tensor) -> Tensor:
        seen.append(tokens.clone())
        return model(tokens)

    draw(PLANS["random"], tokens, model=watched, guidance=2.0, uncond="masked", guidance_mode="calls")
    for without, whole in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(without, whole.masked_fill(tokens != MASK, MASK))


def test_models_that_are_given_a_time_or_predict_the_next_token() -> None:
    tokens, times = torch.full((2, 8), MASK), []

    def timed(tokens: Tensor, **time: Tensor) -> types.SimpleNamespace:
        times.append({name: value.tolist() for name, value in time.items()})
        return types.SimpleNamespace(logits=model(tokens))

    draw(ft.plan("random", 2), tokens, model=timed, time="t")
    draw(ft.plan("ancestral", sizes=[1, 3]), tokens, model=timed, time="sigma")
    assert times[:2] == [{"t": [1.0, 1.0]}, {"t": [0.5, 0.5]}]
    assert times[3]["sigma"] == pytest.approx([1.3862944] * 2)

    def of_the_next(tokens: Tensor) -> Tensor:
        logits = model(tokens)
        return torch.cat([logits[:, 1:], logits[:, :1]], 1)

    for tokens in (some_given(), torch.cat([torch.full((2, 1), 4), torch.full((2, 7), MASK)], 1)):
        seeds = list(range(len(tokens)))
        if (tokens[:, 0] != MASK).all():
            shifted = draw(PLANS["random"], tokens, model=of_the_next, shift=True, seeds=seeds)
            assert torch.equal(shifted, draw(PLANS["random"], tokens, seeds=seeds))


def test_open_places_may_be_said_and_tokens_excluded() -> None:
    tokens = torch.randint(SIZE, (3, 8))
    open = torch.rand(3, 8) < 0.5
    drawn = draw(PLANS["random"], tokens, open=open, exclude=[0, 1, 2], seeds=[1, 2, 3])
    assert torch.equal(drawn, draw(PLANS["random"], tokens.masked_fill(open, MASK), exclude=[0, 1, 2], seeds=[1, 2, 3]))
    assert (drawn[open] > 2).all()
    inside = ft.sample(model, PLANS["random"], torch.full((2, 40), 4), 4)  # the mask is one of the logits' tokens
    assert not (inside == 4).any()


def test_a_callback_ends_the_run() -> None:
    tokens = torch.full((1, 8), MASK)
    drawn, calls = draw(ft.plan("random", 8), tokens, callback=lambda step: step.i < 2, return_evaluations=True)
    assert calls == 3
    assert int((drawn == MASK).sum()) == 5


@pytest.mark.parametrize("name", [name for name in PLANS if not PLANS[name].rule.adaptive])
def test_fixed_steps_do_not_wait_for_the_device(name: str) -> None:
    rule, tokens, seen = PLANS[name].rule, torch.full((2, 20), MASK), []
    for steps in (2, 12):
        with HostReads() as reads:
            draw(ft.plan(rule, steps), tokens, seeds=torch.tensor([1, 2]))
        seen.append(len(reads.seen))
    assert seen[0] == seen[1]


@pytest.mark.gpu
@EVERY
def test_a_gpu_draws_the_same_and_is_not_waited_for(name: str) -> None:
    tokens, options = some_given(), {"vocabulary": SIZE, "seeds": [1, 2, 3]}
    right, calls = draw(PLANS[name], tokens, seeds=[1, 2, 3], return_evaluations=True)
    run = ft.iter_sample(model, PLANS[name], tokens.cuda(), MASK, **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        last = next(step for step in run if step.finished)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(last.tokens.cpu(), right)
    assert calls <= last.evaluations <= calls + 1  # it knows of the end one step late


def test_no_gradients_are_recorded() -> None:
    scale = torch.ones((), requires_grad=True)
    for step in ft.iter_sample(lambda x: scale * model(x), PLANS["random"], some_given(), MASK):
        assert not step.stats.entropy.requires_grad
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@EVERY
def test_logits_without_a_law_are_an_error(name: str, bad: float) -> None:
    def broken(tokens: Tensor) -> Tensor:
        logits = model(tokens)
        logits[1, 3] = bad
        return logits

    tokens = torch.full((2, 6), MASK)
    with pytest.raises(ValueError, match="model: its logits have a row with NaN or infinity"):
        draw(PLANS[name], tokens, model=broken)
    tokens[1, 3] = 0  # a row that is not read
    assert (draw(PLANS[name], tokens, model=broken) < SIZE).all()


TOKENS = torch.full((2, 6), MASK)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"plan": "random"}, TypeError, "plan: expected one of fastdiff.tokens.plan, got str"),
        ({"tokens": TOKENS.int()}, TypeError, "tokens: expected torch.int64"),
        ({"tokens": TOKENS[0]}, ValueError, r"tokens: expected shape \[B, ...\]"),
        ({"mask_id": -1}, ValueError, "mask_id: expected a token's number >= 0, got -1"),
        ({"mask_id": 1.5}, TypeError, "mask_id: expected a whole number, got float"),
        ({"temperature": -0.5}, ValueError, "temperature: expected a finite number >= 0, got -0.5"),
        ({"temperature": float("nan")}, ValueError, "temperature: expected a finite number"),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature: expected shape \(2,\)"),
        ({"top_k": 0}, ValueError, "top_k: expected None or a number >= 1"),
        ({"top_p": 1.5}, ValueError, "top_p: expected"),
        ({"top_p": 0.5, "plan": PLANS["trapezoidal"]}, ValueError, "top_p: not with the rule trapezoidal"),
        ({"guidance": 2.0}, ValueError, "uncond: guidance needs"),
        ({"guidance": 2.0, "uncond": "none"}, ValueError, "uncond: expected keyword arguments or 'masked'"),
        ({"seeds": [1]}, ValueError, "seeds: expected one for each of the 2 samples"),
        ({"stop": MASK}, ValueError, "stop: expected tokens' numbers >= 0 that are not the mask"),
        ({"fill": 3}, ValueError, "fill: expected a stop token beside it"),
        ({"exclude": [SIZE]}, ValueError, "exclude: expected tokens in"),
        ({"exclude": [1, 2, 3, 4]}, ValueError, "exclude: expected at most 3"),
        ({"time": "x"}, ValueError, "time: expected None, 't', 'sigma'"),
        ({"open": TOKENS}, TypeError, "open: expected torch.bool"),
        ({"block_start": 7}, ValueError, "block_start: expected a position of the 6, got 7"),
        ({"plan": PLANS["uniform"]}, ValueError, "vocabulary: expected it"),
        ({"vocabulary": 12}, ValueError, "model: expected logits of 12 tokens, got 11"),
        ({"model": lambda x: model(x)[:, 1:]}, ValueError, r"model: expected logits of shape \(2, 6, V\), got"),
        ({"model": lambda x: [1]}, TypeError, "model: expected it to return logits"),
        ({"temprature": 1.0}, TypeError, "temprature: not an option here.* did you mean temperature?"),
        ({"tokens": TOKENS.view(2, 2, 3), "stop": 1}, ValueError, "stop: blocks, stop tokens and shifts need an order"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_names_the_argument(arguments: dict, error: type[Exception], message: str) -> None:
    given = {"model": model, "plan": PLANS["random"], "tokens": TOKENS, "mask_id": MASK, **arguments}
    first = [given.pop(name) for name in ("model", "plan", "tokens", "mask_id")]
    with pytest.raises(error, match=message):
        ft.sample(*first, **given)

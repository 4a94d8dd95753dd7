"""The demo model as its user meets it: the shipped weights, their integrity, and a training run that resumes."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastdiff import demo

WEIGHTS = demo.WEIGHTS


@pytest.fixture(scope="module")
def model():
    return demo.load_model()


@pytest.fixture
def folder(tmp_path):
    """A private copy of the shipped files."""
    return shutil.copytree(WEIGHTS, tmp_path / "weights")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, *demo.SHAPE, generator=generator), torch.tensor([0.0, 250.5, 700.0, 999.0])


# The shipped files.


def test_shipped_weights_are_small_and_described():
    assert (WEIGHTS / "digits.safetensors").stat().st_size <= 3_000_000
    assert {"sha256", "model", "training"} <= json.loads((WEIGHTS / "digits.json").read_text()).keys()


def test_model_is_ready_for_inference(model):
    assert not model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["digits.json", "digits.safetensors"])
@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_file_that_is_not_there_is_named(name, kind, folder):
    (folder / name).unlink()
    if kind == "folder":
        (folder / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: cannot be read .*fastdiff.demo.train"):
        demo.load_model(folder)


def test_description_of_another_network_is_named(folder):
    description = json.loads((folder / "digits.json").read_text())
    for model in ({"nothing": 1}, {**description["model"], "num_classes": 3}, [1], None, "abc"):
        (folder / "digits.json").write_text(json.dumps({**description, "model": model}))
        with pytest.raises(ValueError, match=r"digits\.json describes another network"):
            demo.load_model(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "digits.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"digits\.safetensors: truncated or altered"):
        demo.load_model(folder)


def test_one_flipped_bit_is_refused(folder):
    path = folder / "digits.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"digits\.safetensors: truncated or altered"):
        demo.load_model(folder)


@pytest.mark.parametrize("text", ["", '{"sha256":', "[]", '{"sha256": "0"}'])
def test_broken_description_is_refused(folder, text):
    (folder / "digits.json").write_text(text)
    with pytest.raises(ValueError, match=r"digits\.json: truncated or altered"):
        demo.load_model(folder)


def test_sampling_needs_no_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; from fastdiff import demo; demo.load_model()"
    subprocess.run([sys.executable, "-c", code], check=True)


# The network's contract.


@pytest.mark.parametrize("size", [1, 3])
def test_prediction_has_the_shape_and_type_of_x(model, size):
    v = model(torch.randn(size, *demo.SHAPE), torch.full((size,), 500.0), torch.arange(size))
    assert v.shape == (size, *demo.SHAPE)
    assert v.dtype == torch.float32
    assert torch.isfinite(v).all()


def test_prediction_is_deterministic(model, batch):
    assert torch.equal(model(*batch), model(*batch))


def test_label_changes_the_prediction(model, batch):
    zeros, ones = (model(*batch, torch.full((4,), label)) for label in (0, 1))
    assert (zeros - ones).abs().amax() > 0.1


def test_no_label_is_label_ten(model, batch):
    assert torch.equal(model(*batch), model(*batch, torch.full((4,), demo.NUM_CLASSES)))


def test_prediction_varies_smoothly_between_training_times(model, batch):
    x = batch[0][:1].expand(3, -1, -1, -1)
    below, between, above = model(x, torch.tensor([900.0, 900.5, 901.0]))
    assert (below - above).abs().amax() < 0.01
    torch.testing.assert_close(between, (below + above) / 2, atol=1e-3, rtol=0)


def test_prediction_agrees_with_plain_torch_ops(model, batch):
    import fastdiff.ops

    with fastdiff.ops.backend("torch"):
        expected = model(*batch)
    torch.testing.assert_close(model(*batch), expected, atol=2e-5, rtol=0)


def test_schedule_is_the_discrete_squared_cosine():
    schedule = demo.schedule()
    level = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas_cumprod = np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))
    np.testing.assert_allclose(schedule.alpha(np.arange(1000.0)), np.sqrt(alphas_cumprod), rtol=1e-9)
    np.testing.assert_allclose(schedule.alpha(10.5) ** 2, schedule.alpha(10.0) * schedule.alpha(11.0), rtol=1e-12)


# Samples.


def ddim(model, x, y, steps):
    """Deterministic DDIM (Song et al. 2021, eq. 12) with uniform times, for v-prediction."""
    times = np.append(np.linspace(999, 999 / steps, steps), np.nan)
    schedule = demo.schedule()
    for t, t_next in itertools.pairwise(times):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        v = model(x, torch.full((len(x),), float(t)), y)
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        if np.isnan(t_next):
            return x0
        x = float(schedule.alpha(t_next)) * x0 + float(schedule.sigma(t_next)) * eps


@pytest.fixture(scope="module")
def samples(model):
    noise = torch.randn(100, *demo.SHAPE, generator=torch.Generator().manual_seed(1))
    return ddim(model, noise, torch.arange(100) % 10, steps=20)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_samples_are_recognised_as_the_digits_asked_for(samples):
    neural_network = pytest.importorskip("sklearn.neural_network")
    from fastdiff.demo.data import digits

    images, labels = digits()
    classifier = neural_network.MLPClassifier((64,), learning_rate_init=3e-3, max_iter=100, random_state=0)
    classifier.fit(images.flatten(1).numpy(), labels.numpy())
    probability = classifier.predict_proba(samples.flatten(1).numpy())
    assert probability.max(1).mean() > 0.95
    assert (probability.argmax(1) == np.arange(100) % 10).mean() > 0.95


def test_images_are_grey_levels(samples):
    images = demo.to_images(samples)
    assert images.shape == (100, 8, 8)
    assert images.dtype == np.uint8
    assert images.min() == 0
    assert images.max() >= 250


@pytest.mark.parametrize(("level", "grey"), [(-1.0, 0), (1.0, 255), (-3.0, 0), (3.0, 255), (0.0, 128)])
def test_images_map_minus_one_to_one_onto_0_to_255(level, grey):
    assert (demo.to_images(torch.full((1, *demo.SHAPE), level)) == grey).all()


@pytest.mark.parametrize("x", [torch.zeros(8, 8), torch.zeros(1, 3, 8, 8), torch.full((1, 1, 8, 8), float("nan"))])
def test_images_refuse_what_is_no_sample(x):
    with pytest.raises(ValueError, match=r"^x: expected"):
        demo.to_images(x)


# Training.


@pytest.fixture
def recipe():
    pytest.importorskip("sklearn")
    from fastdiff.demo.train import Recipe

    return Recipe(seed=3, batch=4, warmup=2)


def test_resumed_training_equals_uninterrupted_training(recipe, tmp_path):
    from fastdiff.demo.train import Trainer, train

    whole, half = tmp_path / "whole", tmp_path / "half"
    for place in (whole, half):
        place.mkdir()
    train(Trainer(recipe, steps=4), whole)

    interrupted = Trainer(recipe, steps=4)
    for _ in range(2):
        interrupted.advance()
    interrupted.save(half / "checkpoint.pt")
    train(Trainer.load(half / "checkpoint.pt"), half)

    assert (whole / "digits.safetensors").read_bytes() == (half / "digits.safetensors").read_bytes()
    assert json.loads((whole / "digits.json").read_text())["training"]["steps"] == 4


def test_trained_weights_load_from_their_folder(recipe, tmp_path):
    from fastdiff.demo.train import Trainer, train

    train(Trainer(recipe, steps=2), tmp_path)
    assert demo.load_model(tmp_path)(torch.zeros(1, *demo.SHAPE), torch.zeros(1)).shape == (1, *demo.SHAPE)


def test_run_without_a_length_ends_by_the_clock(recipe, tmp_path):
    from fastdiff.demo.train import Trainer, train

    trainer = Trainer(recipe)
    train(trainer, tmp_path, minutes=0.01)
    assert trainer.step == trainer.steps


def test_length_may_change_only_before_the_decay(recipe):
    from fastdiff.demo.train import Trainer

    trainer = Trainer(recipe, steps=1000)
    trainer.step = 60
    trainer.set_length(100)
    with pytest.raises(ValueError, match="cannot become one of 99"):
        trainer.set_length(99)
    trainer.step = 61
    trainer.set_length(100)
    with pytest.raises(ValueError, match="cannot become one of 1000"):
        trainer.set_length(1000)


def test_command_trains_and_resumes(tmp_path, monkeypatch):
    train = pytest.importorskip("fastdiff.demo.train", exc_type=ImportError)
    threads = str(torch.get_num_threads())
    command = ["train", "--steps", "1", "--out", str(tmp_path), "--threads", threads]
    for extra in ([], ["--resume"]):
        monkeypatch.setattr(sys, "argv", command + extra)
        train.main()
    assert json.loads((tmp_path / "digits.json").read_text())["training"]["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "argument --steps: expected a whole number >= 1"),
        (["--minutes", "nan"], "argument --minutes: expected a finite number"),
        (["--steps", "1", "--threads", "0"], "argument --threads: "),
        (["--steps", "1", "--resume"], "--resume: none holds no checkpoint.pt"),
    ],
)
def test_command_refuses_what_it_cannot_do(arguments, words, tmp_path, monkeypatch, capsys):
    train = pytest.importorskip("fastdiff.demo.train", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--out", "none", *arguments])
    with pytest.raises(SystemExit):
        train.main()
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_training_leaves_whole_files_alone_and_no_bar_in_a_log(recipe, tmp_path, capsys):
    from fastdiff.demo.train import Trainer, train

    train(Trainer(recipe, steps=1), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "digits.json", "digits.safetensors"]
    assert capsys.readouterr().err == ""


def test_learning_rate_rises_stays_and_falls_to_zero(recipe):
    from fastdiff.demo.train import learning_rate

    rates = [learning_rate(step, 100, recipe) for step in range(101)]
    assert rates[0] == recipe.learning_rate / 2
    assert rates[2:60] == [recipe.learning_rate] * 58
    assert sorted(rates[60:], reverse=True) == rates[60:]
    assert rates[-1] == pytest.approx(0)

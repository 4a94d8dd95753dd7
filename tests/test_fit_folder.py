"""A fit's folder: interrupted, continued, shared between numbers of steps, and damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import SCHEDULE, model, noise, shorten_catalogue

import fastdiff as fd
from fastdiff.fitting import convergence, course
from fastdiff.fitting.descent import Descent

pytestmark = pytest.mark.usefixtures("short_search")
COUNT = 32
SHORT = {"prediction": "sample", "method": "full", "iterations": 1, "batch": 16, "tolerance": 0.02}


def fit(subject: object = model, steps: int = 3, **options: object) -> fd.Plan:
    return fd.fit(subject, SCHEDULE, steps, noise(COUNT), **(SHORT | options))


def refusing(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The model, which like many cannot take an empty batch."""
    assert len(x) > 0
    assert len(t) > 0
    return model(x, t)


def unet() -> object:
    """A U-Net of diffusers, untrained."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the test extra")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    return lambda x, t: net(x, t).sample


def test_a_forward_fit_that_is_read_from_its_folder_is_the_one_that_was_returned(tmp_path, monkeypatch):
    shorten_catalogue(monkeypatch)
    options = SHORT | {"method": "forward", "folder": tmp_path}
    first, again = (fd.fit(model, SCHEDULE, 3, noise(8), **options) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("kind", ["refusing", "unet"])
def test_no_run_calls_the_model_with_an_empty_batch(kind, tmp_path, monkeypatch):
    """Fresh, interrupted, continued, finished, and for a second number of steps."""
    subject = refusing if kind == "refusing" else unet()
    start = noise(COUNT) if kind == "refusing" else fd.noise.randn((COUNT, 1, 4, 4), range(COUNT))
    shorten_catalogue(monkeypatch)

    def go(steps: int, folder: Path) -> fd.Plan:
        return fd.fit(subject, SCHEDULE, steps, start, folder=folder, **SHORT)

    whole = go(3, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Descent, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(3, tmp_path / "cut")
    for _ in range(2):
        assert go(3, tmp_path / "cut") == whole
    assert go(2, tmp_path / "cut").nfe == 2


def interrupted(self: Descent, rate: float) -> float:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> tuple[Path, fd.Plan]:
    """A folder with fits of two numbers of steps, and the plan of one."""
    folder = tmp_path_factory.mktemp("fits") / "complete"
    plan = fit(folder=folder)
    fit(folder=folder, steps=2)
    return folder, plan


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> list[Path]:
    """Folders of another model and of another schedule."""
    root = tmp_path_factory.mktemp("others")
    fit(lambda x, t: 1.02 * model(x, t), folder=root / "model")
    fd.fit(model, fd.Schedule.edm(0.01, 15.0), 3, noise(COUNT), folder=root / "schedule", **SHORT)
    return [root / "model", root / "schedule"]


def files(folder: Path) -> list[str]:
    """Of the folder's own and of the fit of three steps."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.parent.name != "2")


def names_file_and_remedy(error: ValueError, path: Path, folder: Path) -> bool:
    """Or, where the file says whose fit it is, the folder and what to do with it."""
    words = str(error)
    named, other = (str(path), "call again"), (str(folder), "give this one its own")
    return all(word in words for word in named) or all(word in words for word in other)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_file_is_refused_by_name_or_the_fit_is_as_it_was(data, complete, others, tmp_path):
    intact, plan = complete
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(intact, folder)
    name = data.draw(st.sampled_from(files(intact)))
    path, content = folder / name, (intact / name).read_bytes()
    kinds = ["cut", "bit", "missing", "empty", "folder", "noise", "text", "another file", "other steps", "other fit"]
    kind = data.draw(st.sampled_from(kinds))
    path.unlink()
    if kind == "cut":
        path.write_bytes(content[: data.draw(st.integers(1, len(content) - 1))])
    elif kind == "bit":
        place = data.draw(st.integers(0, len(content) - 1))
        changed = content[place] ^ (1 << data.draw(st.integers(0, 7)))
        path.write_bytes(content[:place] + bytes([changed]) + content[place + 1 :])
    elif kind == "folder":
        path.mkdir()
    elif kind in ("empty", "noise", "text"):
        path.write_bytes({"empty": b"", "noise": bytes(range(256)) * 8, "text": b'{"fit": [1], "x": null}'}[kind])
    elif kind == "another file":
        shutil.copy(folder / data.draw(st.sampled_from([f for f in files(intact) if f != name])), path)
    elif kind == "other steps":
        twin = intact / name.replace("3/", "2/")
        path.write_bytes(twin.read_bytes() if twin.exists() else content)
    elif kind == "other fit":
        theirs = data.draw(st.sampled_from(others)) / name
        path.write_bytes(theirs.read_bytes() if theirs.exists() else b"")
    try:
        again = fit(folder=folder)
    except ValueError as error:
        assert names_file_and_remedy(error, path, path.parent), error  # noqa: PT017
        assert kind != "missing" or "fit.json" in name
    else:
        assert again == plan


def test_every_damaged_or_foreign_file_is_named_before_anything_is_drawn(complete, others, tmp_path):
    folder = tmp_path / "fits"
    shutil.copytree(complete[0], folder)
    damaged = ["trajectory-3.safetensors", "teacher.safetensors", "3/forward.json", "3/descent 1.safetensors"]
    for name in damaged[:3]:
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    shutil.copy(others[0] / damaged[3], folder / damaged[3])
    (folder / "3" / "plan.json").write_text("the user's own")
    calls: list[int] = []

    def counting(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return model(x, t)

    with pytest.raises(ValueError, match="folder: ") as caught:
        fit(counting, folder=folder)
    assert [name for name in files(folder) if str(folder / name) in str(caught.value)] == sorted(damaged)
    assert str(folder / damaged[3]) + " belongs to another fit" in str(caught.value)
    assert sum(calls) < 50  # what tells one model from another


def test_trajectories_of_another_converged_plan_are_refused(complete, tmp_path, monkeypatch):
    monkeypatch.setattr(convergence, "CONTESTANTS", convergence.CONTESTANTS[:1])
    folder = tmp_path / "fits"
    shutil.copytree(complete[0], folder)
    shutil.rmtree(folder / "3")
    for name in ("teacher.json", "teacher.safetensors"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"folder: .*trajectory-0.safetensors belongs to another fit"):
        fit(folder=folder, tolerance=1e-4)


def test_a_fit_with_other_steps_in_the_same_folder_starts_at_once(complete, tmp_path, monkeypatch):
    """No trajectory and no reference is drawn again, for memory or for files."""
    calls: list[int] = []

    def counting(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return model(x, t)

    for stage in ("run_forward", "run_full"):
        monkeypatch.setattr(course, stage, lambda *_: None)
    for memory in (None, 1):
        shutil.copytree(complete[0], tmp_path / f"{memory}")
        calls.clear()
        fit(counting, 4, folder=tmp_path / f"{memory}", memory=memory)
        assert sum(calls) == 2 * 3 * 2 + 3 * 2  # twice three steps of two samples, and the two at two times


def test_file_that_was_deleted_as_told_is_made_anew(complete, tmp_path):
    intact, plan = complete
    shutil.copytree(intact, tmp_path / "fits")
    for name in ("teacher.json", "3/forward.json", "3/start 2.safetensors"):
        (tmp_path / "fits" / name).unlink()
        assert fit(folder=tmp_path / "fits") == plan


@pytest.mark.parametrize("place", ["fits", "fits/3"])
def test_file_in_place_of_a_folder_is_named(place, tmp_path):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("here")
    with pytest.raises(ValueError, match=f"folder: expected a folder or nothing at {tmp_path / place}, a file is"):
        fit(folder=tmp_path / "fits")

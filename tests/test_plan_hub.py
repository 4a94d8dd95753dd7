"""Plans in folders and repositories: the layout, and the way there and back. The Hub itself is a stand-in."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

import fastdiff as fd

PLAN = fd.plan("dpmpp_2m", fd.Schedule.scaled_linear(), 6)
FLUX = fd.plan("euler", fd.Schedule.flow(tokens=4096), 8)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "plan.json"),
        ({"model": "digits"}, "digits/6.json"),
        ({"model": "stabilityai/sdxl-1.0", "guidance": 7.5}, "stabilityai/sdxl-1.0/guidance-7.5/6.json"),
        ({"model": "stabilityai/sdxl-1.0", "guidance": 5}, "stabilityai/sdxl-1.0/guidance-5/6.json"),
    ],
)
def test_a_plan_lies_at_its_place_in_a_folder_and_comes_back_bit_for_bit(given: dict, place: str, tmp_path: Path):
    assert PLAN.save_pretrained(tmp_path, **given) == tmp_path / place
    steps = {"steps": 6} if "model" in given else {}
    assert fd.Plan.from_pretrained(tmp_path, **given, **steps) == PLAN
    assert fd.Plan.from_pretrained(str(tmp_path), **given, **steps) == PLAN


def test_one_folder_holds_plans_of_many_models_and_says_which(tmp_path: Path):
    PLAN.save_pretrained(tmp_path, model="sd", guidance=7.5)
    FLUX.save_pretrained(tmp_path, model="flux")
    assert fd.Plan.from_pretrained(tmp_path, model="flux", steps=8) == FLUX
    with pytest.raises(FileNotFoundError, match=r"no plan at sd/guidance-5/6.json; there are flux/8.json, sd/gui.*7.5"):
        fd.Plan.from_pretrained(tmp_path, model="sd", steps=6, guidance=5.0)
    with pytest.raises(FileNotFoundError, match=r"no plan at plan\.json; there is none"):
        fd.Plan.from_pretrained(_made(tmp_path / "empty"))
    (tmp_path / "flux" / "8.json").write_text("{")
    with pytest.raises(ValueError, match=r"flux.*8\.json: not a valid fastdiff plan"):
        fd.Plan.from_pretrained(tmp_path, model="flux", steps=8)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Hub:
    """Repositories in memory, with the calls of huggingface_hub that are made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.files, self.told = folder, {}, {}, []

    def api(self, token: object = None) -> Hub:
        self.told.append(token)
        return self

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> None:
        assert exist_ok
        self.made[repo_id] = private

    def upload_file(self, *, path_or_fileobj: bytes, path_in_repo: str, repo_id: str, **options: object) -> object:
        assert repo_id in self.made
        self.files[repo_id, path_in_repo] = path_or_fileobj
        self.told.append(options)
        return f"https://hub/{repo_id}/commit"

    def download(self, repo_id: str, filename: str, *, revision: str | None, token: object) -> str:
        if (repo_id, filename) not in self.files:
            raise EntryNotFoundError("404")
        path = self.folder / filename.replace("/", "-")
        path.write_bytes(self.files[repo_id, filename])
        self.told.append((revision, token))
        return str(path)

    def list_repo_files(self, repo_id: str, revision: str | None) -> list[str]:
        return ["README.md", *(name for repo, name in self.files if repo == repo_id)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", made.api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


def test_a_plan_goes_to_a_repository_and_comes_back(hub: Hub):
    address = PLAN.push_to_hub("me/plans", model="sd", guidance=7.5, private=True, token="secret", revision="next")
    assert address == "https://hub/me/plans/commit"
    assert hub.made == {"me/plans": True}
    assert json.loads(hub.files["me/plans", "sd/guidance-7.5/6.json"])["solver"] == "dpmpp_2m"
    assert hub.told == ["secret", {"revision": "next", "commit_message": "Plan of 6 evaluations for sd"}]
    found = fd.Plan.from_pretrained("me/plans", model="sd", steps=6, guidance=7.5, revision="next", token="secret")
    assert found == PLAN
    assert hub.told[-1] == ("next", "secret")


def test_a_repository_without_the_plan_says_which_it_has(hub: Hub):
    FLUX.push_to_hub("me/plans", model="flux")
    with pytest.raises(FileNotFoundError, match=r"me/plans: no plan at flux/4.json; there are flux/8.json$"):
        fd.Plan.from_pretrained("me/plans", model="flux", steps=4)


def test_a_hub_that_is_not_reached_is_not_called_empty(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    def download(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(LocalEntryNotFoundError, match="offline"):
        fd.Plan.from_pretrained("me/plans")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    real = importlib.import_module

    def missing(name: str, *args: object) -> object:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'fastdiff\[hub\]'"):
        fd.Plan.from_pretrained("me/plans")
    with pytest.raises(ImportError, match=r"pip install 'fastdiff\[hub\]'"):
        PLAN.push_to_hub("me/plans")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"guidance": 7.5}, "guidance: a plan without a model's name"),
        ({"model": "../sd"}, "model: expected a name"),
        ({"model": "/sd"}, "model: expected a name"),
        ({"model": "a/../../b"}, "model: expected a name"),
        ({"model": ""}, "model: expected a name"),
        ({"model": "sd", "guidance": float("nan")}, "guidance: expected a finite number"),
    ],
)
def test_what_names_no_place_is_refused(given: dict, words: str, tmp_path: Path):
    with pytest.raises(ValueError, match=words):
        PLAN.save_pretrained(tmp_path, **given)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=words):
        fd.Plan.from_pretrained(tmp_path, steps=6, **given)


@pytest.mark.parametrize("steps", [None, 0, "6", True])
def test_the_number_of_steps_is_asked_for(steps: object, tmp_path: Path):
    with pytest.raises(ValueError, match="steps: expected the number of evaluations of sd's plan"):
        fd.Plan.from_pretrained(tmp_path, model="sd", steps=steps)


def test_a_folder_that_is_not_there_is_no_repository():
    with pytest.raises(FileNotFoundError, match="no such folder, and not the name of a repository"):
        fd.Plan.from_pretrained("./no/such/folder")

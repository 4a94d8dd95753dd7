"""Where plans lie in a folder or a repository of the Hugging Face Hub, and how they get there and back.

The layout, so that one place serves many models:

    <model>/<steps>.json                        e.g. black-forest-labs/FLUX.1-dev/8.json
    <model>/guidance-<scale>/<steps>.json       e.g. stabilityai/stable-diffusion-xl-base-1.0/guidance-5/6.json
    plan.json                                   of a place that holds one plan

model is the model's own name, as in its repository's; steps the plan's number of evaluations; scale the guidance that
the plan was fitted with, in the shortest form (5, 7.5), absent where there was none.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from pathlib import Path
from typing import Any, NoReturn

ALONE = "plan.json"
NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


def place_of(model: str | None, steps: int | None, guidance: float | None) -> str:
    """The path of a plan below its folder, with '/'. Raises ValueError naming the argument."""
    if model is None:
        if guidance is not None:
            raise ValueError(f"guidance: a plan without a model's name lies in {ALONE}, got guidance={guidance}")
        return ALONE
    if not isinstance(model, str) or not NAME.fullmatch(model) or ".." in model:
        raise ValueError(f"model: expected a name of letters, digits, '_', '-', '.' and '/', got {model!r}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: expected the number of evaluations of {model}'s plan, got {steps!r}")
    if guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"guidance: expected a finite number, got {guidance}")
    folder = model if guidance is None else f"{model}/guidance-{float(guidance):.10g}"
    return f"{folder}/{steps}.json"


def find(source: str | os.PathLike, place: str, revision: str | None, token: str | bool | None) -> Path:
    """The file at `place` in a local folder, or downloaded from a repository where there is no such folder.

    Raises FileNotFoundError listing the plans that there are.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / place).is_file():
            _refuse(source, place, [path.relative_to(folder).as_posix() for path in folder.rglob("*.json")])
        return folder / place
    hub, errors, repository = _package(), _package("huggingface_hub.errors"), os.fspath(source)
    if not NAME.fullmatch(repository) or repository.count("/") > 1:
        raise FileNotFoundError(f"{repository}: no such folder, and not the name of a repository")
    try:
        return Path(hub.hf_hub_download(repository, place, revision=revision, token=token))
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise  # the Hub was not asked
        _refuse(repository, place, hub.HfApi(token=token).list_repo_files(repository, revision=revision))


def upload(
    text: str, repository: str, place: str, message: str, private: bool | None, revision: str | None, token: Any
) -> str:
    """Put a plan's JSON at `place` of a repository, made if it is not there. Returns the commit's address."""
    api = _package().HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.upload_file(
        path_or_fileobj=text.encode(),
        path_in_repo=place,
        repo_id=repository,
        revision=revision,
        commit_message=message,
    )
    return str(commit)


def _package(name: str = "huggingface_hub") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("huggingface_hub is needed for the Hub: pip install 'fastdiff[hub]'") from error


def _refuse(source: object, place: str, files: list[str]) -> NoReturn:
    plans = sorted(name for name in files if name.endswith(".json"))
    found = f"there are {', '.join(plans)}" if plans else "there is none"
    raise FileNotFoundError(f"{source}: no plan at {place}; {found}")

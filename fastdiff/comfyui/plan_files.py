"""Plans as files in ComfyUI's models/fastdiff_plans."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..plans.plan import Plan

FOLDER = "fastdiff_plans"


def names() -> list[str]:
    """The files there, also those in folders that extra_model_paths.yaml names."""
    return [name for name in _paths().get_filename_list(FOLDER) if name.endswith(".json")]


def path_of(name: str) -> Path:
    """The file of that name. Raises FileNotFoundError."""
    return Path(_paths().get_full_path_or_raise(FOLDER, name))


def digest_of(name: str) -> str:
    """Of the file's content, by which ComfyUI knows that it has changed."""
    return sha256(path_of(name).read_bytes()).hexdigest()


def check_name(name: str) -> None:
    """Raises ValueError unless it is a name of a file without a folder: a workflow may come from anybody."""
    if not re.fullmatch(r"[\w][\w .+-]*", name):
        raise ValueError(f"save_as: expected a name of letters, digits, '.', '-', '+', '_' and spaces, got {name!r}")


def save(plan: Plan, name: str) -> Path:
    """Write the plan as NAME.json in the first of the folders."""
    check_name(name)
    path = Path(_paths().get_folder_paths(FOLDER)[0], name if name.endswith(".json") else f"{name}.json")
    plan.save(path)
    return path


def _paths() -> Any:
    """ComfyUI's module of folders, which knows this one from now on."""
    import folder_paths

    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))
    return folder_paths

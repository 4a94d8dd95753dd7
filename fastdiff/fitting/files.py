"""The files of a fit's folder: written whole, and read back only where they are what was written there.

Each holds its own name, the fit that it belongs to and a digest of its content, so that a cut, changed or misplaced
file is a ValueError that names it, and never a wrong plan.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import files

Content = TypeVar("Content")
Buffer = bytes | memoryview
REMEDY = "delete it and call again: what it held is made anew"
UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError)


def save_json(path: Path, fit: str, content: dict[str, object]) -> None:
    """Keep what JSON can hold."""
    text = json.dumps(content)
    record = {"fit": fit, "sha256": _digest(path.name, fit, text.encode()), "content": content}
    write(path, lambda partial: partial.write_text(json.dumps(record) + "\n"))


def load_json(path: Path, fit: str) -> dict[str, Any] | None:
    """What `save_json` kept, None where there is no such file. Raises ValueError naming it."""
    return _loaded(path, fit, _read_json)


def save_tensors(path: Path, fit: str, tensors: dict[str, Tensor], notes: dict[str, object]) -> None:
    """Keep tensors, and notes that JSON can hold."""
    text = json.dumps(notes)
    digest = _digest(path.name, fit, text.encode(), *_parts(tensors))
    write(path, lambda partial: save_file(tensors, partial, {"fit": fit, "sha256": digest, "notes": text}))


def load_tensors(path: Path, fit: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save_tensors` kept, None where there is no such file. Raises ValueError naming it."""
    return _loaded(path, fit, _read_tensors)


def faults(paths: list[Path], fit: str) -> list[str]:
    """What is wrong with each of the files that cannot be loaded as this fit's."""
    found = []
    for path in sorted(paths):
        try:
            (load_json if path.suffix == ".json" else load_tensors)(path, fit)
        except ValueError as error:
            found.append(str(error))
    return found


def make_folder(folder: Path) -> None:
    """The folder and those above it. Raises ValueError where a file is in its place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"folder: expected a folder or nothing at {folder}, a file is there") from error


def write(path: Path, save: Callable[[Path], object]) -> None:
    """`fastdiff.files.write`, into a folder whose names are a fit's."""
    if path.is_dir():
        raise ValueError(f"folder: {path} is a folder where a file is kept; move it away and call again")
    files.write(path, save)


def _loaded(path: Path, fit: str, read: Callable[[Path], tuple[str, str, list[Buffer], Content]]) -> Content | None:
    if not os.path.lexists(path):
        return None
    try:
        owner, digest, raw, content = read(path)
    except UNREADABLE as error:
        raise ValueError(f"folder: {path} cannot be read ({type(error).__name__}: {error}); {REMEDY}") from error
    if digest != _digest(path.name, owner, *raw):
        raise ValueError(f"folder: {path} is not as it was written; {REMEDY}")
    if owner != fit:
        raise ValueError(f"folder: {path} belongs to another fit; {REMEDY}")
    return content


def _read_json(path: Path) -> tuple[str, str, list[Buffer], dict[str, Any]]:
    record = json.loads(path.read_text())
    return str(record["fit"]), record["sha256"], [json.dumps(record["content"]).encode()], record["content"]


def _read_tensors(path: Path) -> tuple[str, str, list[Buffer], tuple[dict[str, Tensor], dict[str, Any]]]:
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    raw = [notes["notes"].encode(), *_parts(tensors)]
    return notes["fit"], notes["sha256"], raw, (tensors, json.loads(notes["notes"]))


def _parts(tensors: dict[str, Tensor]) -> list[Buffer]:
    """Names, shapes, types and contents, in order of name, without a copy."""
    found: list[Buffer] = []
    for name, value in sorted(tensors.items()):
        found.append(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        found.append(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found


def _digest(*parts: str | Buffer) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()

"""A fit's folder: what it keeps there, under the name of the fit that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .files import load_json, load_tensors, make_folder, save_json, save_tensors, write

CLAIM = "fit.json"


class Folder:
    """Files of one fit. Without a path nothing is kept, and nothing is found.

    fit: the name that files have to belong to, as `claim` makes it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.fit = path, ""

    def within(self, name: str) -> Folder:
        """The folder of this name in it."""
        return Folder(None if self.path is None else self.path / name)

    def claim(self, **key: object) -> None:
        """Make the folder this fit's.

        Raises ValueError where it is that of another; numbers may differ a little from what the first call wrote.
        """
        if self.path is None:
            return
        make_folder(self.path)
        path = self.path / CLAIM
        saved = load_json(path, "")
        if saved is None:
            saved = key
            save_json(path, "", key)
        wrong = [name for name, value in key.items() if name not in saved or not _alike(value, saved[name])]
        if wrong:
            other = f"{self.path} holds a fit with another {', '.join(wrong)}, as {path.name} there says"
            raise ValueError(f"folder: {other}; give this one its own")
        self.fit = sha256(dumps(saved).encode()).hexdigest()

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.path is not None and (self.path / name).is_file()

    def load_json(self, name: str) -> dict[str, Any] | None:
        """What `save_json` kept, or None. Raises ValueError naming the file."""
        return None if self.path is None else load_json(self.path / name, self.fit)

    def save_json(self, name: str, content: dict[str, object]) -> None:
        """Keep what JSON can hold."""
        if self.path is not None:
            save_json(self.path / name, self.fit, content)

    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_tensors` kept, or None. Raises ValueError naming the file."""
        return None if self.path is None else load_tensors(self.path / name, self.fit)

    def save_tensors(self, name: str, tensors: dict[str, Tensor], notes: dict[str, object]) -> None:
        """Keep tensors, and notes that JSON can hold."""
        if self.path is not None:
            save_tensors(self.path / name, self.fit, tensors, notes)

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Have save(path) write a file that is for the user."""
        if self.path is not None:
            write(self.path / name, save)


def _alike(a: Any, b: Any) -> bool:
    """Equal, or numbers that differ by what another order of summation leaves."""
    if isinstance(a, (list, tuple)) and np.shape(a) == np.shape(b):
        return bool(np.allclose(a, b, rtol=1e-3))
    return a == b

"""A fit's folder: what it keeps there, under the name of the fit that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from torch import Tensor

from ..plans.plan import Plan
from ..sampling.ranks import Ranks, alike
from .files import faults, load_json, load_tensors, make_folder, save_json, save_tensors, write

CLAIM = "fit.json"


class Folder:
    """Files of one fit. Without a path nothing is kept, and nothing is found.

    ranks: the processes that share it. The first one reads and writes, and tells the others what it has read.
    fit: the name that files have to belong to, as `claim` makes it.
    """

    def __init__(self, path: Path | None, ranks: Ranks) -> None:
        self.path, self.ranks, self.fit = path, ranks, ""

    def within(self, name: str) -> Folder:
        """The folder of this name in it."""
        return Folder(None if self.path is None else self.path / name, self.ranks)

    def of_plan(self, plan: Plan) -> Folder:
        """The same folder, for what is drawn by a plan: with another one such files are another fit's."""
        folder = Folder(self.path, self.ranks)
        folder.fit = sha256((self.fit + dumps(plan.to_dict())).encode()).hexdigest()
        return folder

    def claim(self, **key: object) -> None:
        """Make the folder this fit's.

        Raises ValueError where it is that of another; numbers may differ a little from what the first call wrote.
        """
        if self.path is not None:
            path = self.path
            self.fit = self.ranks.from_first(lambda: _claimed(path, key))

    def faults(self, *patterns: str) -> list[str]:
        """What is wrong with the files of these names, for each that is damaged or another fit's."""
        path = self.path
        if path is None:
            return []
        return self.ranks.from_first(lambda: faults([f for name in patterns for f in path.glob(name)], self.fit))

    def has(self, name: str) -> bool:
        """Whether this process sees such a file."""
        return self.path is not None and (self.path / name).is_file()

    def load_json(self, name: str) -> dict[str, Any] | None:
        """What `save_json` kept, or None. Raises ValueError naming the file."""
        return self._loaded(load_json, name)

    def save_json(self, name: str, content: dict[str, object]) -> None:
        """Keep what JSON can hold."""
        if self._writes is not None:
            save_json(self._writes / name, self.fit, content)

    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save_tensors` kept, or None. Raises ValueError naming the file."""
        return self._loaded(load_tensors, name)

    def save_tensors(self, name: str, tensors: dict[str, Tensor], notes: dict[str, object]) -> None:
        """Keep tensors, and notes that JSON can hold."""
        if self._writes is not None:
            save_tensors(self._writes / name, self.fit, tensors, notes)

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Have save(path) write a file that is for the user."""
        if self._writes is not None:
            write(self._writes / name, save)

    def remove(self, *patterns: str) -> None:
        """Delete the files of these names."""
        if self._writes is not None:
            for path in (path for name in patterns for path in self._writes.glob(name)):
                path.unlink()

    @property
    def _writes(self) -> Path | None:
        """The path where this process is the one that writes."""
        return self.path if self.ranks.is_first else None

    def _loaded(self, load: Callable[[Path, str], Any], name: str) -> Any:
        if self.path is None:
            return None
        path = self.path / name
        return self.ranks.from_first(lambda: load(path, self.fit))


def _claimed(folder: Path, key: dict[str, object]) -> str:
    """The name of the fit that the folder is now of."""
    make_folder(folder)
    path = folder / CLAIM
    saved = load_json(path, "")
    if saved is None:
        saved = key
        save_json(path, "", key)
    wrong = [name for name, value in key.items() if name not in saved or not alike(value, saved[name])]
    if wrong:
        other = f"{folder} holds a fit with another {', '.join(wrong)}, as {CLAIM} there says"
        raise ValueError(f"folder: {other}; give this one its own")
    return sha256(dumps(saved).encode()).hexdigest()

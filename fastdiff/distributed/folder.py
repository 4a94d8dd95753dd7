"""A job's folder: manifest.json says what is drawn, journal/ which shards are whole, beside them the shards.

A shard is shard-000000.tar or another format's, and journal/000000.json, written after it, has its seeds, bytes and
sha256. While a process draws it there is journal/000000.taken. A run that draws into the folder holds .lock.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # torch depends on it, too
from torch import Tensor

from .. import files
from .formats import Format
from .seeds import Seeds

MANIFEST, JOURNAL, TAKEN, LOCK = "manifest.json", "journal", ".taken", ".lock"
SHOWN = 80  # letters of a value in an error


class JobFolder:
    """The files of one job, left with `with`. Every process reads and writes it; each shard has one writer."""

    def __init__(self, path: Path, format: Format) -> None:
        self.path, self.format = path, format
        self._lock = FileLock(path / LOCK, timeout=0)

    def claim(self, manifest: dict[str, Any]) -> None:
        """Make the folder this job's, and this run's until it is left or the process ends.

        Raises ValueError naming what is different where it is another's, BlockingIOError where another run draws into
        it, and OSError where it cannot be written.
        """
        files.check_writable(self.path, folder=True)
        path = self.path / MANIFEST
        if path.is_file():
            refuse_other(path, _read(path), manifest)
        elif (self.path / JOURNAL).exists():
            raise ValueError(f"folder: {self.path} holds shards without {MANIFEST}; choose another")
        else:
            text = json.dumps(manifest, indent=1)
            files.write(path, lambda partial: partial.write_text(text + "\n"))
        (self.path / JOURNAL).mkdir(exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise BlockingIOError(f"folder: another run draws into {self.path}; wait until it is done") from None
        except NotImplementedError:
            pass  # a file system without locks
        for left in (*self.path.glob(".*.partial*"), *(self.path / JOURNAL).glob(f"*{TAKEN}")):  # of who was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def __enter__(self) -> JobFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def begun(self) -> str | None:
        """The sha256 of the manifest as this process sees it, None where it sees none."""
        path = self.path / MANIFEST
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def journal(self) -> list[int]:
        """The numbers of the shards that are said to be whole."""
        found = (path for path in (self.path / JOURNAL).iterdir() if path.suffix == ".json")
        return sorted(int(path.stem) for path in found if path.stem.isdigit())

    def take(self, number: int) -> bool:
        """Whether the shard is this process's to draw: no other has taken or written it.

        Creating a file that must not exist is atomic, so that of several processes one is told so.
        """
        try:
            self._mark(number).touch(exist_ok=False)
        except FileExistsError:
            return False
        if self._entry(number).exists():  # its writer took the mark away in between
            self.give_back(number)
            return False
        return True

    def give_back(self, number: int) -> None:
        """Let a shard that was taken be taken again, unless it is whole."""
        self._mark(number).unlink(missing_ok=True)

    def shard(self, number: int) -> Path:
        """Where it is."""
        return self.path / f"shard-{number:06d}{self.format.suffix}"

    def save(self, number: int, seeds: list[int], content: Tensor) -> None:
        """Write a shard that was taken, and then that it is whole."""
        path = self.shard(number)
        self.format.save(path, seeds, content)
        size, digest = contents(path)
        entry = {"shard": path.name, "seeds": str(Seeds(seeds)), "bytes": size, "sha256": digest}
        files.write(self._entry(number), lambda partial: partial.write_text(json.dumps(entry) + "\n"))
        self.give_back(number)

    def is_whole(self, number: int) -> bool:
        """Whether a shard is as it was written. What the journal says of another is taken away."""
        try:
            entry = json.loads(self._entry(number).read_text())
            if (entry["bytes"], entry["sha256"]) == contents(self.shard(number)):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._entry(number).unlink(missing_ok=True)
        return False

    def load(self, number: int) -> Tensor:
        """The content of a whole shard."""
        return self.format.load(self.shard(number))

    def _entry(self, number: int) -> Path:
        return self.path / JOURNAL / f"{number:06d}.json"

    def _mark(self, number: int) -> Path:
        return self._entry(number).with_suffix(TAKEN)


def contents(path: Path) -> tuple[int, str]:
    """Bytes and sha256 of a file, or of the files of a folder, with their names, in order."""
    found, size = hashlib.sha256(), 0
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        data = each.read_bytes()
        if each != path:
            found.update(each.name.encode())
        found.update(data)
        size += len(data)
    return size, found.hexdigest()


def refuse_other(path: Path, begun: dict[str, Any], manifest: dict[str, Any], within: str = "") -> None:
    """Raises ValueError naming the first thing in which the manifests differ."""
    for name in dict.fromkeys([*begun, *manifest]):
        old, new = begun.get(name), manifest.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            refuse_other(path, old, new, f"{within}{name}.")
        raise ValueError(
            f"{within}{name}: the job of {path} was begun with {_short(old)}, got {_short(new)}; go on with the same,"
            " or draw into another folder"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text())
        assert isinstance(manifest, dict)
    except (ValueError, AssertionError):
        raise ValueError(f"folder: {path} is no job's manifest, or altered") from None
    return manifest


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."

"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Call save(partial file) and move the result to `path`; a failed run leaves what was there, and nothing else.

    The partial file lies beside `path`, under a name that no other run has. A link stays a link, and a device or a pipe
    is written to as it is. Missing folders are made. Raises OSError naming `path`.
    """
    try:
        if _is_special(path):
            save(path)
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(target)
        try:
            save(partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_folder(path: Path, save: Callable[[Path], object]) -> None:
    """`write` of a folder: save(partial folder) fills it. What was at `path` is taken away first."""
    partial = partial_of(path)
    try:
        partial.mkdir(parents=True)
        try:
            save(partial)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raises OSError naming `path` where `write` to it, or into the folder that it names, would; leaves nothing."""
    try:
        if _is_special(path):
            return
        if path.is_dir() and not folder:
            raise IsADirectoryError(None, "this is a folder; name a file in it")
        if path.is_file() and folder:
            raise NotADirectoryError(None, "this is a file; name a folder")
        place = path.resolve() if folder else path.resolve().parent
        while not place.exists():
            place = place.parent
        probe = partial_of(place / path.name)
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def partial_of(path: Path) -> Path:
    """A hidden name beside `path` that no other run has, with its suffix."""
    return path.with_name(f".{secrets.token_hex(8)}.partial{path.suffix}")


def _is_special(path: Path) -> bool:
    """Whether there is something at `path` that can be written to but not replaced, such as /dev/null."""
    return path.exists() and not path.is_file() and not path.is_dir()

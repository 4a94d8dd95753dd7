"""What compilers make of sources, made once for each content of the sources and kept between runs.

The folder is FASTDIFF_TEST_CACHE, or the user's cache folder. Several test processes may share it: who comes second
waits for the first. An entry that no run has used for a month is deleted.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MONTH = 30 * 24 * 3600.0  # seconds

# Where memory is accessed the address sanitizer finds what the last three find, and they take most of the time.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size,pointer-overflow"]
SANITIZERS += ["-fno-sanitize-recover=all"]


def folder() -> Path:
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("FASTDIFF_TEST_CACHE") or user / "fastdiff-tests").resolve()


def kept(key: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled for this key, now or before."""
    made = folder() / hashlib.sha256(key.encode()).hexdigest()[:32]
    made.parent.mkdir(parents=True, exist_ok=True)
    with _locked(made.with_suffix(".lock")):
        if not made.exists():
            _delete_unused(made.parent)
            fresh = Path(tempfile.mkdtemp(prefix="fresh-", dir=made.parent))
            try:
                make(fresh)
                fresh.rename(made)  # whole, or not at all
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        os.utime(made)
    return made


def compiled(compiler: str, *arguments: object, output: str) -> Path:
    """The folder with `output`, which the command line gave, and `log`, all that the compiler said.

    The key is the compiler's version, its arguments, and the contents of this checkout's files that it reads.
    """
    command = [compiler, *map(str, arguments)]
    key = [_version(compiler), *command[1:]]
    for path in _own_files(command):
        key += [path, hashlib.sha256((ROOT / path).read_bytes()).hexdigest()]

    def make(target: Path) -> None:
        done = subprocess.run([*command, "-o", target / output], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (target / "log").write_text(done.stdout + done.stderr)

    return kept("\n".join(key).replace(str(ROOT), "."), make)


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _own_files(command: list[str]) -> list[str]:
    """The sources and headers in this checkout; others belong to the compiler's version."""
    asking = [word for word in command if word != "-c"] + ["-MM"]
    done = subprocess.run(asking, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = done.stdout.replace("\\\n", " ").split()
    read = {Path(word).resolve() for word in words if not word.endswith(":")}
    own = sorted(str(path.relative_to(ROOT)) for path in read if path.is_relative_to(ROOT) and path.is_file())
    assert own, command
    return own


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, whatever ends that
        yield


def _delete_unused(cache: Path) -> None:
    """Locks stay: another process may hold one, and they are empty."""
    for entry in cache.iterdir():
        if entry.is_dir() and entry.stat().st_mtime < time.time() - MONTH:
            shutil.rmtree(entry, ignore_errors=True)

"""Where a command's result and its messages go."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..files import check_writable, write

STANDARD_OUTPUT = Path("-")


class Output:
    """What one option names: a file, a folder, or standard output where it is "-".

    Raises ValueError or OSError now, naming the option, where the result could not be written later.
    """

    def __init__(self, option: str, path: Path, *, folder: bool = False, binary: bool = True) -> None:
        self.option, self.path = option, path
        self.is_standard = path == STANDARD_OUTPUT
        if self.is_standard and folder:
            raise ValueError(f"{option}: expected a folder, got - (standard output)")
        if self.is_standard and binary and sys.stdout.isatty():
            raise ValueError(f"{option} -: standard output is a terminal; send it to a file or into a pipe")
        if not self.is_standard:
            self._checked(check_writable, path, folder=folder)

    def __str__(self) -> str:
        return "standard output" if self.is_standard else str(self.path)

    def save(self, save: Callable[[Path], object], name: str | None = None) -> None:
        """Have save(path) write the file, or the file `name` in the folder."""
        if not self.is_standard:
            self._checked(write, self.path / name if name else self.path, save)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "result")
            save(path)
            sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()

    def say(self, text: object) -> None:
        """A message, on standard error where the result is on standard output."""
        print(text, file=sys.stderr if self.is_standard else sys.stdout, flush=True)

    def _checked(self, call: Callable, path: Path, *arguments: object, **options: object) -> None:
        try:
            call(path, *arguments, **options)
        except OSError as error:
            raise OSError(f"{self.option}: {path}: {error.strerror}") from error


def differ(*outputs: Output) -> None:
    """Raises ValueError where two options name one file: the second would replace what the first wrote."""
    seen: dict[Path, Output] = {}
    for output in outputs:
        other = seen.setdefault(output.path.resolve(), output)
        if other is not output:
            raise ValueError(f"{output.option}: expected another file than {other.option}'s, got {output.path}")


def shows_bars() -> bool:
    """Bars are for someone who looks on; a log would hold each of their states."""
    return sys.stderr.isatty()

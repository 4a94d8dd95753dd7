"""Counts mypy's errors in every room of the package; a count may only fall. Run by `python tests/type_ratchet.py`.

Rooms that pyproject.toml does not name under [tool.fastdiff.type_errors] have none. Fails where there are more than
the number there; where there are fewer, says which number to write.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ERROR = re.compile(r"^fastdiff/(?:(?P<room>\w+)/)?[\w/]+\.pyi?:\d+: error: ", re.MULTILINE)


def limits(config: str) -> dict[str, int]:
    """The numbers under [tool.fastdiff.type_errors]."""
    section = config.partition("[tool.fastdiff.type_errors]\n")[2].partition("\n[")[0]
    return {name: int(number) for name, number in re.findall(r"^(\w+) = (\d+)$", section, re.MULTILINE)}


def run_mypy(config: str) -> str:
    """mypy's whole output, with the errors that a plain `mypy` passes over."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pyproject.toml")
        path.write_text(config.replace("ignore_errors = true", "ignore_errors = false"))
        command = [sys.executable, "-m", "mypy", "--config-file", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def judge(output: str, allowed: dict[str, int]) -> tuple[list[str], list[str]]:
    """(what fails, what to write down) for mypy's output."""
    found = Counter(match["room"] or "fastdiff" for match in ERROR.finditer(output))
    rooms = sorted({*found, *allowed})
    worse = [f"{room}: {found[room]} type errors, at most {allowed.get(room, 0)} are allowed"
             for room in rooms if found[room] > allowed.get(room, 0)]  # fmt: skip
    better = [f"{room}: {found[room]} type errors; write {room} = {found[room]} in pyproject.toml"
              for room in rooms if found[room] < allowed.get(room, 0)]  # fmt: skip
    return worse, better


def main() -> int:
    config = (ROOT / "pyproject.toml").read_text()
    output, allowed = run_mypy(config), limits(config)
    worse, better = judge(output, allowed)
    if worse:
        print(output)
    print(*worse, *better, sep="\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())

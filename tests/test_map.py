"""README.md is a map of this folder."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_the_map_names_every_file_once_and_no_other() -> None:
    cells = [line.split("|")[1] for line in (TESTS / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`([\w/]+(?:\.\w+|/))`", cell)]
    here = [path.name for pattern in ("*.py", "*.cpp") for path in TESTS.glob(pattern)]
    assert sorted(named) == sorted([*here, "cuda_twin/"])

"""The ratchet on type errors: more than are allowed fail, fewer are told, clean rooms stay clean."""

from pathlib import Path

import type_ratchet

CONFIG = Path(type_ratchet.ROOT, "pyproject.toml").read_text()
OUTPUT = """fastdiff/patch/ldm.py:30: error: Argument 1 has another type  [arg-type]
fastdiff/patch/ldm.py:30: note: it is an int
fastdiff/plans/solvers/karras.py:3: error: no  [misc]
fastdiff/keywords.py:3: error: no  [misc]
"""


def test_more_errors_than_are_allowed_fail_and_a_room_that_is_not_named_may_have_none():
    worse, better = type_ratchet.judge(OUTPUT, {"patch": 1})
    assert [line.split(":")[0] for line in worse] == ["fastdiff", "plans"]
    assert better == []


def test_fewer_errors_are_told_with_the_number_to_write():
    worse, better = type_ratchet.judge(OUTPUT, {"patch": 3, "plans": 1, "fastdiff": 1, "demo": 2})
    assert worse == []
    assert [line.partition("write ")[2] for line in better] == [
        "demo = 0 in pyproject.toml",
        "patch = 1 in pyproject.toml",
    ]


def test_the_rooms_of_the_three_floors_and_the_fit_are_clean_and_the_others_have_a_number():
    allowed = type_ratchet.limits(CONFIG)
    passed_over = {line.split(".")[1] for line in CONFIG.splitlines() if line.startswith('  "fastdiff.')}
    assert set(allowed) == passed_over
    assert not {"plans", "ops", "sampling", "fitting", "nn", "fastdiff"} & passed_over

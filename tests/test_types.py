"""The ratchet on type errors: more than are allowed fail, fewer are told, clean rooms stay clean."""

import ast
import re
from pathlib import Path

import type_ratchet

from fastdiff.ops import _C

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


def test_nothing_that_mypy_passes_over_in_diffusers_is_imported():
    (block,) = re.findall(r'^module = \["diffusers\.loaders.*"\]$', CONFIG, re.MULTILINE)
    passed_over = tuple(re.findall(r'"([\w.]+)\.\*"', block))
    assert "transformers" in passed_over
    for path in Path(type_ratchet.ROOT, "fastdiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in modules if f"{name}.".startswith(tuple(f"{p}." for p in passed_over))], path


def test_what_is_declared_of_the_compiled_kernels_is_in_them():
    declared = ast.parse(Path(_C.__file__).with_name("_C.pyi").read_text()).body
    names = {node.name for node in declared if isinstance(node, ast.FunctionDef)}
    assert {"bind", "solver_step_cpu", "attention_cpu"} <= names
    missing = names - set(dir(_C))
    assert missing <= (set() if _C.build_info()["cuda"] else {"solver_step_pack", "solver_step_table"})

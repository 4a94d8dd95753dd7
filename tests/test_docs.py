"""The documentation is true: its code runs, its examples print what they say, its numbers are measured, its links lead
somewhere, and the reference has every public name."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import pkgutil
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import doc_stand_ins
import pytest
import torch

import fastdiff as fd
from fastdiff.__main__ import main

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*TOP, *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md")))]
LANGUAGES = {"python", "pycon", "sh", "text"}
EXAMPLES = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FASTER = {"fit": ["--samples", "32", "--evaluations", "3000"]}


class Block(NamedTuple):
    """A fenced block; `comment` is the HTML comment right above it."""

    language: str
    code: str
    line: int
    comment: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks_of(page: str) -> list[Block]:
    text = text_of(page)
    found = re.finditer(r"(?:<!-- (.*?) -->\n\n?)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[2], m[3], text.count("\n", 0, m.start(3)), m[1] or "") for m in found]


def pages_with(*languages: str) -> list[str]:
    return [page for page in PAGES if any(block.language in languages for block in blocks_of(page))]


@pytest.fixture(autouse=True)
def a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    doc_stand_ins.install(monkeypatch)


def run(block: Block, page: str, names: dict[str, object]) -> None:
    code = compile("\n" * block.line + block.code, str(ROOT / page), "exec")
    if block.comment == "needs a GPU" and not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError), match=r"(?i)cuda"):
            exec(code, names)
    else:
        exec(code, names)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python", "pycon"))
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    names = doc_stand_ins.names()
    for block in blocks_of(page):
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                run(block, page, names)
        elif block.language == "pycon":
            check(block, page, names)


def check(block: Block, page: str, names: dict[str, object]) -> None:
    """Its examples print what the page says."""
    test = doctest.DocTestParser().get_doctest(block.code, names, page, page, block.line)
    report = io.StringIO()
    failed, _ = doctest.DocTestRunner(optionflags=EXAMPLES).run(test, out=report.write, clear_globs=False)
    names.update(test.globs)  # a copy
    assert not failed, report.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_the_commands_of_a_page_run(page):
    lines = [line for block in blocks_of(page) if block.language == "sh" for line in block.code.splitlines()]
    commands = [shlex.split(match[1]) for line in lines for match in re.finditer(r"(?:^|&& )fastdiff ([^#&]*)", line)]
    for command in commands:
        assert main([*command, *FASTER.get(command[0], [])]) == 0, command


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page):
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    assert len(re.findall(r"^ *```", text_of(page), re.MULTILINE)) == 2 * len(blocks_of(page))


def test_the_readme_is_short_and_begins_with_two_installations():
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 150
    installs = [line for line in lines if line.startswith("pip install")]
    assert [line.split("&&")[1].split("#")[0].strip() for line in installs] == ["fastdiff sample", "pytest"]
    assert f"{len(fd.solvers())} solvers" in text_of("README.md")


def tables_with_numbers() -> Iterator[tuple[str, list[str], str]]:
    """(page, the files that hold its numbers, table)."""
    for page in PAGES:
        for match in re.finditer(r"<!-- numbers: (.*?) -->\n\n((?:\|.*\n)+)", text_of(page)):
            yield page, match[1].split(), match[2]


def test_measured_numbers_are_in_the_files_of_results():
    seen = 0
    for page, files, table in tables_with_numbers():
        measured = {number for name in files for number in re.findall(r"[\d.]+(?:e-\d+)?", text_of(name))}
        for row in table.splitlines()[2:]:
            cells = [cell.strip().replace("*", "") for cell in row.strip("|").split("|")]
            numbers = [n for cell in cells for n in re.findall(r"(?<![\w.])\d+\.\d+(?:e-\d+)?(?!\d|\.\d)", cell)]
            assert set(numbers) <= measured, (page, row)
            seen += len(numbers)
    assert seen > 300


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text_of(page))):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), f"{page}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
            assert anchor in slugs, f"{page}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # which names former ones
def test_files_that_a_page_names_exist(page):
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    roots = "bench|csrc|docs|examples|fastdiff|tests"
    for name in re.findall(rf"`((?:{roots})/[\w./*-]+)`", prose):
        assert list(ROOT.glob(name.rstrip("/"))), f"{page}: {name}"


def fastdiff_modules() -> list[str]:
    found = pkgutil.walk_packages(fd.__path__, "fastdiff.")
    return sorted(m.name for m in found if not m.name.rsplit(".", 1)[1].startswith("_") and ".triton" not in m.name)


def test_examples_in_docstrings_print_what_they_say():
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(optionflags=EXAMPLES)
    report = io.StringIO()
    for name in fastdiff_modules():
        module = importlib.import_module(name)
        for test in finder.find(module, extraglobs={"fd": fd, "torch": torch}):
            runner.run(test, out=report.write)
    assert runner.failures == 0, report.getvalue()
    assert runner.tries > 0


@pytest.mark.parametrize(
    ("module", "pages"),
    [
        ("fastdiff", "index fitting ops nn perturb posterior"),
        ("fastdiff.ops", "ops"),
        ("fastdiff.nn", "nn"),
        ("fastdiff.guidance", "guidance"),
        ("fastdiff.posterior", "posterior"),
        ("fastdiff.distributed", "distributed"),
        ("fastdiff.structures", "structures"),
        ("fastdiff.tokens", "tokens"),
        ("fastdiff.inspection", "index"),
        ("fastdiff.training", "training"),
        ("fastdiff.patch.perturb", "perturb"),
        ("fastdiff.schedulers", "schedulers"),
        ("fastdiff.token_schedulers", "schedulers"),
        ("fastdiff.guiders", "guiders"),
        ("fastdiff.pipelines", "pipelines fitting"),
    ],
)
def test_the_reference_has_every_public_name(module, pages):
    text = "".join(text_of(f"docs/api/{page}.md") for page in pages.split())
    shown = {name.rsplit(".", 1)[1] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    assert set(importlib.import_module(module).__all__) - {"SchedulerMixin"} <= shown


def renderer(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """docs/docstrings.py; griffe, which it extends, comes with the documentation's tools and not with the tests'."""
    nothing = types.SimpleNamespace(Extension=object)
    monkeypatch.setitem(sys.modules, "griffe", nothing)
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_become_lists_of_arguments(monkeypatch):
    text = """Sums a_i x_i < y.

first, second: [B] numbers, at
    least one. third: a name, such as `a_b`.
Raises ValueError.

    y = sum_i a_i x_i

>>> 1 + 1
2"""
    expected = r"""Sums a\_i x\_i &lt; y.

- **first, second**: \[B\] numbers, at least one.

- **third**: a name, such as `a_b`.

Raises ValueError.

```text
y = sum_i a_i x_i
```

```pycon
>>> 1 + 1
2
```"""
    assert renderer(monkeypatch).to_markdown(text, {"first", "second", "third"}) == expected

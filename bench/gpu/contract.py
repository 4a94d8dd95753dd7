"""The project's own tests on the device, one process for each file and backend, every result written as it comes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

from fastdiff.ops.registry import OPS

from .identity import ROOT
from .process import Cases, Job, device_is_lost

BACKENDS = {"cuda": ("triton", "cuda"), "cpu": ("cpu",)}
SHARDS = 4  # processes for an op's file with one backend on a GPU machine: compiling takes most of the time
QUICK, QUICK_OPS = 6, ("attention",)  # tests of a job


class Part(NamedTuple):
    """Some of a file's tests. backend: of those that take one, None for those that take none."""

    file: str
    backend: str | None
    shard: int = 0
    shards: int = 1
    most: int | None = None

    @property
    def name(self) -> str:
        of = f", {self.shard + 1} of {self.shards}" if self.shards > 1 else ""
        return f"{self.file}, {self.backend or 'no backend'}{of}"

    @property
    def section(self) -> str:
        return f"tests: {self.file}, {self.backend or 'no backend'}"


def contract(device: str, quick: bool) -> list[Job]:
    """A job for each part, in order of worth."""
    return [Job(f"contract: {part.name}", run_tests, (part, device)) for part in parts(device, quick)]


def parts(device: str, quick: bool) -> list[Part]:
    """The ops' own files first, shard by shard, then every other file with tests for a GPU."""
    shards = SHARDS if device == "cuda" else 1
    most = QUICK if quick else None
    found = [
        Part(f"test_{op}.py", backend, shard, shards, most)
        for shard in range(shards)
        for op in (QUICK_OPS if quick else OPS)
        for backend in BACKENDS[device]
    ]
    return found + [Part(file, backend) for file, backend in _others()] if device == "cuda" else found


def _others() -> Iterator[tuple[str, str | None]]:
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        text = path.read_text()
        if "mark.gpu" in text:
            yield path.name, None
        own = re.search(r"^BACKENDS = \((.*)\)", text, re.MULTILINE)
        for backend in BACKENDS["cuda"]:
            if own and f'"{backend}"' in own[1]:
                yield path.name, backend


def run_tests(cases: Cases, part: Part, device: str) -> None:
    """The part's tests in this process."""
    torch.set_num_threads(1)  # several parts run at once
    recorder = Recorder(cases, part)
    # Only what Python prints is captured: what a crash prints is in the process's output.
    options = ["-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:randomly", f"--rootdir={ROOT}"]
    options += ["-m", "gpu"] if device == "cuda" else []
    ended = pytest.main([*options, str(ROOT / "tests" / part.file)], plugins=[recorder])
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError("\n".join([f"pytest: {ended!r}", *recorder.errors]))


class Recorder:
    """A pytest plugin: picks the part's tests, a case of each function before the second of any, and tells results."""

    def __init__(self, cases: Cases, part: Part) -> None:
        self._cases, self._part, self._reports = cases, part, []
        self.errors: list[str] = []  # outside tests

    @pytest.hookimpl(trylast=True)  # behind those that deselect by mark
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        part, seen, order = self._part, Counter(), {}
        for item in items:
            name = item.nodeid.partition("[")[0]
            order[item] = seen[name]
            seen[name] += 1
        own = [item for item in items if _backend(item) == part.backend]
        own = sorted(own, key=order.__getitem__)[part.shard :: part.shards][: part.most]
        items[:] = [item for item in own if not self._cases.is_done(part.section, item.nodeid)]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports.clear()
        self._cases.begin(self._part.section, nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        lost = device_is_lost()
        self._cases.end(self._part.section, nodeid, self._record(nodeid, lost))
        if lost:
            os._exit(1)  # the next process goes on behind this case

    def pytest_internalerror(self, excrepr: object) -> None:
        self.errors.append(str(excrepr))

    def _record(self, nodeid: str, lost: str | None) -> dict:
        seconds = round(sum(report.duration for report in self._reports), 3)
        bad = next((report for report in self._reports if report.failed), None)
        if bad is not None:
            return {"outcome": "failed", "seconds": seconds, "kind": _kind(bad, self._part), "text": _text(nodeid, bad)}
        if lost:
            kind = f"the device is lost in {self._part.section}"
            return {"outcome": "failed", "seconds": seconds, "kind": kind, "text": f"{nodeid}\n{lost}"}
        skipped = any(report.skipped for report in self._reports)
        return {"outcome": "skipped" if skipped else "passed", "seconds": seconds}


def _backend(item: pytest.Item) -> str | None:
    given = getattr(item, "callspec", None)
    return None if given is None else given.params.get("backend")


def _kind(report: pytest.TestReport, part: Part) -> str:
    """What failures share: the file and backend, the line that raised and the error's type."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return f"{report.when} of a test in {part.section}"
    named = re.match(r"[\w.]+(?=:|$)", crash.message)
    error = named[0] if named else "AssertionError"  # whose name pytest leaves out
    return f"{error} at {os.path.basename(crash.path)}:{crash.lineno} in {part.section}"


def _text(nodeid: str, report: pytest.TestReport) -> str:
    printed = "\n".join(f"{title}:\n{text}" for title, text in report.sections)
    return f"{nodeid}\n{report.longrepr}\n{printed}"

"""`python -m bench.gpu` from end to end on the CPU, so that the one command for a GPU machine cannot rot."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import fastdiff

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds: the first of the processes loads torch, on a machine that may be busy
KINDS = {
    "ceilings", "first calls", "solver step", "gram", "guidance", "group norm", "attention", "loop", "kernels"
}  # fmt: skip


@pytest.fixture(autouse=True)
def bench_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The checkout's bench/ beside the fastdiff that is under test, here and in the processes that it starts."""
    tested = Path(fastdiff.__file__).parents[1]  # first: the checkout's own may not be built
    monkeypatch.setattr(sys, "path", [str(tested), *sys.path, str(ROOT)])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # Python 3.11's fork server looks there first


@pytest.fixture
def store(tmp_path: Path):
    from bench.gpu.results import Results

    return Results(tmp_path / "results.json", {"source": "a", "machine": {"device": "b"}})


def saved(results) -> dict:
    return json.loads(results.path.read_text())


@pytest.mark.slow
def test_every_stage_is_run_and_written_down_and_not_run_again(tmp_path: Path, capsys) -> None:
    from bench.gpu.__main__ import main
    from bench.gpu.stages import STAGES

    command = ["--out", str(tmp_path), "--device", "cpu", "--quick", "--skip", "build"]
    assert main(command) == 0
    (results,) = tmp_path.glob("*.json")
    found = json.loads(results.read_text())
    assert {name: stage["state"] for name, stage in found["stages"].items()} == {
        stage.name: "done" for stage in STAGES if stage.name != "build"
    }
    assert {"torch", "triton", "device", "python"} <= set(found["identity"]["machine"])
    tests = {name: cases for name, cases in found["sections"].items() if name.startswith("tests: ")}
    assert tests
    assert all(record["outcome"] == "passed" for cases in tests.values() for record in cases.values())
    assert set(found["sections"]) == KINDS | set(tests)
    page = results.with_suffix(".md").read_text()
    for section in KINDS:
        for record in found["sections"][section].values():
            assert "note" not in record, record
            assert f"| {record['case']} | " in page
    assert all(launch["first"] > 0 for r in found["sections"]["kernels"].values() for launch in r["launches"])
    assert "_ATTENTION_ON_CUDA" in capsys.readouterr().out

    before = results.read_bytes()
    assert main(command) == 0
    assert results.read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from bench.gpu.__main__ import main

    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "--device cpu --quick" in capsys.readouterr().err


def dies_in_the_second_of_three(cases) -> None:
    for case in "abc":
        if cases.is_done("s", case):
            continue
        facts = {"case": case, "name": "kernel"}
        cases.begin("s", case, facts)
        if case == "b":
            print("last words", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        cases.end("s", case, facts | {"outcome": "passed"})


def hangs(cases) -> None:
    if not cases.is_done("s", "hangs"):
        cases.begin("s", "hangs")
        time.sleep(600)


def breaks(cases) -> None:
    raise ValueError("no such device")


def test_a_case_that_kills_its_process_costs_no_other(store) -> None:
    from bench.gpu.process import DONE, Job, attend
    from bench.gpu.report import markdown

    assert attend(Job("j", dies_in_the_second_of_three), store, PATIENCE) == DONE
    outcomes = {case: record["outcome"] for case, record in store.sections["s"].items()}
    assert outcomes == {"a": "passed", "b": "died", "c": "passed"}
    assert "last words" in store.sections["s"]["b"]["text"]
    page = markdown(store)
    assert "| b | kernel |" in page
    assert "last words" in page


def test_a_case_that_hangs_is_ended_and_time_that_runs_out_ends_the_job(store) -> None:
    from bench.gpu.process import DONE, LATE, Job, attend

    assert attend(Job("j", hangs), store, 0.1) == LATE
    assert not store.sections
    assert attend(Job("j", hangs, silence=5), store, PATIENCE) == DONE
    assert store.sections["s"]["hangs"]["outcome"] == "died"


def test_a_job_that_breaks_between_cases_says_why(store) -> None:
    from bench.gpu.process import Job, attend

    state = attend(Job("j", breaks), store, PATIENCE)
    assert state.startswith("failed: ")
    assert "ValueError: no such device" in state


FAILING = """
import pytest

@pytest.mark.parametrize("k", range(3))
def test_a(k):
    print(f"seed {k}")
    assert k < 0

def test_b():
    pass

def test_c():
    pytest.skip("not here")
"""


def loses_the_device(cases, part) -> None:
    from bench.gpu import contract

    contract.device_is_lost = lambda: "an illegal memory access was encountered"
    contract.run_tests(cases, part, "cpu")


def test_tests_are_recorded_one_of_each_function_first_and_the_first_failure_in_full(store, tmp_path: Path) -> None:
    from bench.gpu.contract import Part, run_tests
    from bench.gpu.process import DONE, Job, attend

    file = tmp_path / "test_failing.py"
    file.write_text(FAILING)
    part = Part(str(file), None)
    assert attend(Job("j", run_tests, (part, "cpu")), store, PATIENCE) == DONE
    found = {name.rpartition("::")[2]: record for name, record in store.sections[part.section].items()}
    assert {name: record["outcome"] for name, record in found.items()} == {
        "test_a[0]": "failed", "test_b": "passed", "test_c": "skipped", "test_a[1]": "failed", "test_a[2]": "failed"
    }  # fmt: skip
    assert list(found) == ["test_a[0]", "test_b", "test_c", "test_a[1]", "test_a[2]"]
    assert len({record["kind"] for record in found.values() if "kind" in record}) == 1
    assert all(part in found["test_a[0]"]["text"] for part in ("assert 0 < 0", "seed 0", "test_failing.py"))
    assert "text" not in found["test_a[1]"]


def test_a_test_that_loses_the_device_is_named_and_the_others_run_in_another_process(store, tmp_path: Path) -> None:
    from bench.gpu.contract import Part
    from bench.gpu.process import DONE, Job, attend

    file = tmp_path / "test_two.py"
    file.write_text("def test_a(): pass\ndef test_b(): pass\n")
    part = Part(str(file), None)
    assert attend(Job("j", loses_the_device, (part,)), store, PATIENCE) == DONE
    found = list(store.sections[part.section].values())
    assert [record["outcome"] for record in found] == ["failed", "failed"]
    assert "an illegal memory access" in found[0]["text"]


def test_a_file_that_cannot_be_collected_fails_its_job(store, tmp_path: Path) -> None:
    from bench.gpu.contract import Part, run_tests
    from bench.gpu.process import Job, attend

    file = tmp_path / "test_broken.py"
    file.write_text("import no_such_package\n")
    state = attend(Job("j", run_tests, (Part(str(file), None), "cpu")), store, PATIENCE)
    assert state.startswith("failed: ")
    assert "No module named 'no_such_package'" in state


def test_a_build_that_fails_says_what_the_compiler_said(store) -> None:
    from bench.gpu.build import build
    from bench.gpu.process import Job, attend

    command = (sys.executable, "-c", "print('no compiler'); raise SystemExit(3)")
    state = attend(Job("build", build, (command,)), store, PATIENCE)
    assert "exit code 3\nno compiler" in state


def test_the_build_is_for_the_architecture_that_it_is_told(store) -> None:
    from bench.gpu.build import arch_of, build
    from bench.gpu.process import Job, attend

    assert [arch_of(*capability) for capability in ((8, 0), (8, 9), (9, 0), (10, 0))] == ["80", "89", "90a", "100"]
    command = (sys.executable, "-c", "import os; print(os.environ['FASTDIFF_CUDA_ARCHS']); raise SystemExit(3)")
    assert "exit code 3\n90a" in attend(Job("build", build, (command, "90a")), store, PATIENCE)


def test_of_failures_of_one_kind_the_first_is_kept_in_full(store) -> None:
    for case in "ab":
        store.add(("s", case), {"outcome": "failed", "kind": "k", "text": f"traceback of {case}"})
    store.end_stage("contract", "done", 1.0)
    assert saved(store)["sections"]["s"] == {
        "a": {"outcome": "failed", "kind": "k", "text": "traceback of a"},
        "b": {"outcome": "failed", "kind": "k"},
    }


def test_results_are_gone_on_from_unless_they_are_to_be_forgotten(store) -> None:
    from bench.gpu.results import Results

    store.add(("s", "a"), {"outcome": "failed", "kind": "k", "text": "first"})
    store.end_stage("contract", "out of time", 1.0)
    later = Results(store.path, store.identity)
    assert later.done() == {("s", "a")}
    later.add(("s", "b"), {"outcome": "failed", "kind": "k", "text": "second"})
    assert "text" not in later.sections["s"]["b"]
    later.end_stage("contract", "done", 2.0)
    assert saved(later)["stages"]["contract"] == {"state": "done", "seconds": 3.0}
    assert Results(store.path, store.identity, again=True).done() == frozenset()


def test_another_source_has_another_file_of_results(tmp_path: Path) -> None:
    from bench.gpu.identity import file_name, source_hash

    (tmp_path / "fastdiff").mkdir()
    source = tmp_path / "fastdiff" / "a.py"
    names = set()
    for text in ("x = 1", "x = 2"):
        source.write_text(text)
        (tmp_path / "fastdiff" / "a.so").write_text(text)  # what is built from it is not the source
        names.add(file_name({"source": source_hash(tmp_path), "machine": {"device": "A GPU"}}))
    assert len(names) == 2
    assert all(name.startswith("a-gpu-") for name in names)


@pytest.mark.parametrize("name", ["fastdiff cuda", "another"])
def test_a_contestant_that_fails_is_a_record_that_says_so_in_full_for_ours(name: str) -> None:
    from bench.gpu.session import Session
    from bench.gpu.timing import Clock

    class Heard:
        record: dict | None = None

        def is_done(self, section: str, case: str) -> bool:
            return False

        def begin(self, section: str, case: str, facts: dict) -> None:
            assert facts == {"case": "b", "name": name, "bytes": 8}

        def end(self, section: str, case: str, record: dict) -> None:
            self.record = record

    def broken() -> list:
        raise RuntimeError("no such kernel")

    heard = Heard()
    Session(heard, Clock("cpu", 0.01), quick=True).measure("a", "b", name, broken, bytes=8)
    assert heard.record["note"] == "RuntimeError: no such kernel"
    assert ("text" in heard.record) == (name == "fastdiff cuda")
    if name == "fastdiff cuda":
        assert heard.record["kind"].startswith("RuntimeError at test_bench_gpu.py:")
        assert "in broken" in heard.record["text"]


def attention_cases(times: dict[tuple[int, int], dict[str, float]]) -> dict[str, dict]:
    """(keys, head size) -> contestant -> seconds, as the records of the section."""
    return {
        f"{keys} {size} | {name}": {
            "case": f"{keys} {size}", "name": name, "median": seconds, "shape": [1, 1, 64, keys, size]
        }
        for (keys, size), contestants in times.items()
        for name, seconds in contestants.items()
    }  # fmt: skip


def test_attention_is_given_to_kernels_only_between_numbers_of_keys_that_they_won() -> None:
    from bench.gpu.choice import attention_lines

    both = {"fastdiff cuda": 1.0, "fastdiff triton": 1.5, "fastdiff torch": 2.0}
    one = {"fastdiff cuda": 3.0, "fastdiff triton": 1.5, "fastdiff torch": 2.0}
    none = {"fastdiff cuda": 3.0, "fastdiff triton": 2.5, "fastdiff torch": 2.6, "sdpa": 2.0}
    cases = attention_cases({
        (77, 40): both, (128, 40): both, (256, 40): none, (1024, 40): one,
        (77, 80): both, (128, 80): both, (77, 64): none,
    })  # fmt: skip
    assert attention_lines(cases, (9, 0)) == [
        '    Measured((9, 0), (40, 80), range(77, 129), ("cuda", "triton")),',
        '    Measured((9, 0), (40,), range(1024, 1025), ("triton",)),',
    ]


def test_the_order_is_that_of_the_geometric_mean_over_cases_both_served() -> None:
    from bench.gpu.choice import pasted

    times = {"a": {"cuda": 1.0, "triton": 2.0}, "b": {"cuda": 3.0, "triton": 2.0, "eager": 2.5}, "c": {"triton": 1.0}}
    cases = {
        f"{case} | {name}": {"case": case, "name": name if name == "eager" else f"fastdiff {name}", "median": seconds}
        for case, contestants in times.items()
        for name, seconds in contestants.items()
    }
    text = pasted({"solver step": cases}, (9, 0))
    assert '"cuda": ("cuda", "triton")}' in text
    assert "cuda is first in 1 of 2 cases; triton takes 1.15 times as long; eager PyTorch is faster in 1" in text
    assert "group_norm on CUDA: not measured" in text
    scope: dict = {"Measured": tuple, "CallSpec": object, "tuple": tuple}
    exec(text, scope)  # it can be pasted
    assert scope["_ATTENTION_ON_CUDA"] == ()

"""Work done in processes of its own, case by case: one that crashes or hangs costs its case, and not the rest."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

import torch

Key = tuple[str, str]  # the section and the case in it

DEATHS = 10  # processes of one job that may die
LAST_WORDS = 4000  # characters of a dead process's output that are kept
DONE, LATE = "done", "out of time"

# The server has torch loaded and has never touched a GPU, so that a fork of it is ready at once and can use one.
FORKED, FRESH = multiprocessing.get_context("forkserver"), multiprocessing.get_context("spawn")
LOADED = ["torch", "torch._dynamo", "pytest", "fastdiff"]
FORKED.set_forkserver_preload(LOADED)
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking whether there is a GPU does not touch it
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # where there are many processes, each compiles by itself


def load(*modules: str) -> None:
    """Have the processes find these loaded, too. Called before the first is started."""
    FORKED.set_forkserver_preload([*LOADED, *modules])


class Cases:
    """Where a job says, in its process, which case it begins and what came of it."""

    def __init__(self, pipe: Connection, done: frozenset[Key]) -> None:
        self._pipe, self._done = pipe, done

    def is_done(self, section: str, case: str) -> bool:
        """Whether an earlier process or run has it."""
        return (section, case) in self._done

    def begin(self, section: str, case: str, facts: dict | None = None) -> None:
        """facts: what the record is to hold even if the process dies."""
        self._pipe.send(("begin", (section, case), facts or {}))

    def end(self, section: str, case: str, record: dict) -> None:
        self._pipe.send(("end", (section, case), record))


@dataclass(frozen=True)
class Job:
    """work(cases, *arguments) is what a process does.

    silence: seconds between two messages after which it hangs. fresh: in processes that have loaded nothing.
    """

    name: str
    work: Callable
    arguments: tuple = ()
    silence: float = 90
    fresh: bool = False


class Store(Protocol):
    """What takes the records."""

    def done(self) -> frozenset[Key]: ...
    def add(self, key: Key, record: dict) -> None: ...


def attend(job: Job, store: Store, seconds: float) -> str:
    """Run the job until it is done, restarting it behind each case that kills it; DONE, LATE or why it failed."""
    deadline = time.monotonic() + seconds
    for _ in range(DEATHS):
        state = _attend_once(job, store, deadline)
        if state is not None:
            return state
    return f"given up after {DEATHS} processes died"


def forks_reach_gpu(store: Store) -> bool:
    """Whether a fork can use the GPU; not if something loaded has touched it."""
    return attend(Job("whether forks reach the GPU", _use_gpu), store, 60) == DONE


def _use_gpu(cases: Cases) -> None:
    torch.zeros(1, device="cuda").add_(1).item()


def device_is_lost() -> str | None:
    """What the GPU answers if an earlier launch of this process has broken it for good."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            return str(error)
    return None


def _attend_once(job: Job, store: Store, deadline: float) -> str | None:
    """The end of the job, or None if its process died in a case, which is then in the store."""
    processes = FRESH if job.fresh else FORKED
    ours, theirs = processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output"
        process = processes.Process(target=_work, args=(job, store.done(), theirs, log), daemon=False)
        process.start()
        theirs.close()
        try:
            heard = _listen(ours, process.sentinel, job, store, deadline)
            if heard.end is not None:
                return heard.end
            process.join(1)  # one that hangs is still there
            died = f"silent for {job.silence:g} s" if process.exitcode is None else f"exit code {process.exitcode}"
            record = {"outcome": "died", "note": f"died, {died}", "kind": f"died, {died}, in {job.name}"}
            record["text"] = f"{died}\n{_last_words(log)}"
            if heard.begun is None and not heard.ended:
                return f"failed: {record['text']}"
            if heard.begun is not None:
                store.add(heard.begun, heard.facts | record)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join(10)  # the driver may hold one for ever


@dataclass
class Heard:
    """What a process told: the case left open, its facts, how many were ended, and how the job ended, if it did."""

    begun: Key | None = None
    facts: dict = field(default_factory=dict)
    ended: int = 0
    end: str | None = None


def _listen(pipe: Connection, sentinel: int, job: Job, store: Store, deadline: float) -> Heard:
    """Until the job ends, time runs out, or the process dies or hangs."""
    heard = Heard()
    while heard.end is None:
        left = deadline - time.monotonic()
        ready = wait([pipe, sentinel], max(min(left, job.silence), 0))
        if not ready and left <= job.silence:
            heard.end = LATE
        if pipe not in ready:
            break
        try:
            what, key, record = pipe.recv()
        except EOFError:
            break
        if what == "begin":
            heard.begun, heard.facts = key, record
        elif what == "end":
            store.add(key, record)
            heard.begun, heard.ended = None, heard.ended + 1
        else:
            heard.end = what
    return heard


def _work(job: Job, done: frozenset[Key], pipe: Connection, log: Path) -> None:
    """The process: everything it prints goes to the log."""
    os.setsid()  # the compilers that it starts end with it
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    try:
        job.work(Cases(pipe, done), *job.arguments)
        end = DONE
    except Exception:
        end = f"failed: {traceback.format_exc()}"
    pipe.send((end, None, None))


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-LAST_WORDS:] if log.exists() else ""

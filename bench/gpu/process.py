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
from dataclasses import dataclass
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

    def begin(self, section: str, case: str) -> None:
        self._pipe.send(("begin", (section, case), {}))

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
            begun, ended, end = _listen(ours, process.sentinel, job, store, deadline)
            if end is not None:
                return end
            process.join(1)  # one that hangs is still there
            words = _last_words(log)
            died = f"exit code {process.exitcode}" if process.exitcode is not None else f"silent for {job.silence:g} s"
            if begun is not None:
                record = {"outcome": "died", "kind": f"died, {died}, in {job.name}", "text": f"{died}\n{words}"}
                store.add(begun, record)
            elif not ended:
                return f"failed: {died}\n{words}"
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()


def _listen(
    pipe: Connection, sentinel: int, job: Job, store: Store, deadline: float
) -> tuple[Key | None, int, str | None]:
    """The case left open, how many were ended, and how the job ended where it told so or time ran out."""
    begun, ended = None, 0
    while True:
        left = deadline - time.monotonic()
        ready = wait([pipe, sentinel], max(min(left, job.silence), 0))
        if not ready:
            return begun, ended, LATE if left <= job.silence else None
        if pipe not in ready:
            return begun, ended, None
        try:
            what, key, record = pipe.recv()
        except EOFError:
            return begun, ended, None
        if what == "begin":
            begun = key
        elif what == "end":
            store.add(key, record)
            begun, ended = None, ended + 1
        else:
            return None, ended, what


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

"""The stages of a run, in order of worth, and how one is run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from .build import builds
from .ceilings import ceilings
from .contract import contract
from .first_calls import first_calls
from .guided import guided_steps
from .kernels import kernels
from .loop import compiled_loops, loops
from .ops import all_shapes, attentions, compiled_ops, grams, group_norms, keys_and_head_sizes
from .process import DONE, Cases, Job, Store, attend
from .session import Session
from .steps import solver_steps
from .timing import Clock

SECONDS, QUICK_SECONDS = 0.05, 0.005  # for a measurement, warm-up aside
COMPILING = 300  # seconds that torch.compile may say nothing for


@dataclass(frozen=True)
class Stage:
    """share: of the time left when it begins. jobs(device, quick): what it does. at_once: jobs on a GPU machine."""

    name: str
    share: float
    jobs: Callable[[str, bool], list[Job]]
    at_once: int = 1


def timed(name: str, work: Callable[[Session], None], **options: object) -> Callable[[str, bool], list[Job]]:
    """The one job of a stage that measures."""
    return lambda device, quick: [Job(name, run_timed, (work, device, quick), **options)]


def run_timed(cases: Cases, work: Callable[[Session], None], device: str, quick: bool) -> None:
    if quick:
        torch.set_num_threads(1)  # shows that all works, wherever other work has the cores
    work(Session(cases, Clock(device, QUICK_SECONDS if quick else SECONDS), quick))


STAGES = (
    Stage("build", 0.5, builds),
    Stage("contract", 0.4, contract, at_once=12),  # whether a kernel is right does not depend on what runs beside it
    Stage("ceilings", 0.1, timed("ceilings", ceilings)),
    Stage("first calls", 0.35, first_calls, at_once=12),
    Stage("solver step", 0.2, timed("solver step", solver_steps)),
    Stage("gram", 0.15, timed("gram", grams)),
    Stage("guidance", 0.2, timed("guidance", guided_steps)),
    Stage("group norm", 0.25, timed("group norm", group_norms)),
    Stage("attention", 0.3, timed("attention", attentions)),
    Stage("loop", 0.4, timed("loop", loops)),
    Stage("kernels", 0.4, timed("kernels", kernels, fresh=True)),
    Stage("attention by keys", 0.4, timed("attention by keys", keys_and_head_sizes)),
    Stage("compiled", 0.4, timed("compiled", compiled_ops, silence=COMPILING)),
    Stage("all shapes", 0.5, timed("all shapes", all_shapes)),
    Stage("compiled loop", 1.0, timed("compiled loop", compiled_loops, silence=COMPILING)),
)


def run_stage(stage: Stage, device: str, quick: bool, store: Store, seconds: float, *, fresh: bool = False) -> str:
    """Run its jobs, all in fresh processes where asked to; DONE, or what became of those that are not."""
    jobs = [replace(job, fresh=fresh or job.fresh) for job in stage.jobs(device, quick)]
    workers = max(1, min(stage.at_once, (os.cpu_count() or 1) - 2)) if device == "cuda" else 1
    deadline, lock, waiting = time.monotonic() + seconds, threading.Lock(), len(jobs)

    def run(job: Job) -> str:
        nonlocal waiting
        with lock:
            rounds = -(-waiting // workers)  # of jobs that share the time left
            waiting -= 1
        return attend(job, store, (deadline - time.monotonic()) / rounds)

    with ThreadPoolExecutor(workers) as pool:
        states = list(pool.map(run, jobs))
    return "\n".join(f"{job.name}: {s}" for job, s in zip(jobs, states, strict=True) if s != DONE) or DONE

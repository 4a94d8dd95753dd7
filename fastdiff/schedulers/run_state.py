"""What belongs to one run: the times that set_timesteps made, and how far the run has come.

diffusers keeps these on the scheduler, where a second run overwrites them. Here the scheduler has the same attributes,
but they lead to the current run of the calling thread. `fastdiff.schedulers.runs` says which run a step belongs to.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Points

Scheduler = Any  # a FusedScheduler, which is made of the parts that take one
Key = tuple[float, ...]  # the options of `step` that rows are made from
Generators = torch.Generator | list[torch.Generator] | None
MAX_RUNS = 8  # kept of one thread at a time; the oldest is forgotten first


class RunState:
    """One run. The public names are diffusers' own; what is not listed here is what its set_timesteps sets."""

    timesteps: Any = None  # a tensor, once set: what the pipeline iterates over
    num_inference_steps: int | None = None
    custom_timesteps: bool = False
    last_sample: Tensor | None = None  # the base register
    lower_order_nums: int = 0
    _step_index: int | None = None
    _begin_index: int | None = None
    begin: int = 0  # the index of the first step
    table: Any = None  # a Table, once made: the rows in use
    key: Key | None = None  # the step options that they were built for
    last: ref | None = None  # the x that the latest step returned
    kernel: object = None
    case: object = None
    times: Any = None  # timesteps on the host, an array [N] once they are read
    host_sigmas: Any = None  # what else rows are made from, the same
    scales: tuple[Tensor, ...] | None = None  # c_in at each step
    scaled: bool = False  # whether scale_model_input was called
    alphas_cumprod: Any = None
    final_alpha_cumprod: float = 1.0
    watch: Any = None  # a Watch, once read: what all of these were read from
    noise_sampler: Any = None  # of Brownian noise
    noise_seed: int | list[int] | None = None
    last_noise: Tensor | None = None  # what a corrector reads again
    hat: tuple[ref, float] | None = None  # a level that a host was given, and its number
    called: bool = False  # whether who makes cheap calls has made those of the next row
    span: tuple[Tensor, int, int, int] | None = None  # timesteps, and the address, bytes and element's bytes of them

    # Of the classes that have them alone: hosts ask whether a scheduler has such an attribute.
    sigmas: Tensor
    discrete_sigmas: Tensor
    schedule: Tensor

    def __init__(self) -> None:
        self.model_outputs: list[Tensor | None] = []  # converted, the newest last; None where there is none yet

    def again(self) -> RunState:
        """A run of the same times that has not begun."""
        other = RunState()
        other.__dict__ |= {k: v for k, v in self.__dict__.items() if k not in _PROGRESS}
        other.model_outputs = [None] * len(self.model_outputs)
        return other

    def place(self, timestep: object) -> int | None:
        """The index of a timestep that is an element of this run's own tensor, without reading it; else None."""
        if not isinstance(timestep, Tensor) or timestep.ndim:
            return None
        if self.span is None or self.span[0] is not self.timesteps:
            if self.timesteps is None:
                return None
            size = self.timesteps.element_size()
            self.span = self.timesteps, self.timesteps.data_ptr(), size * len(self.timesteps), size
        own, first, length, size = self.span
        offset = timestep.data_ptr() - first
        if not 0 <= offset < length or timestep.dtype is not own.dtype or timestep.device != own.device:
            return None
        return offset // size

    @property
    def over(self) -> bool:
        """Whether it has taken all of its steps."""
        return self._step_index is not None and self._step_index >= len(self.timesteps)

    def waits_for(self, time: float) -> bool:
        """Whether its next step is at this time."""
        return self._step_index is not None and not self.over and self.times[self._step_index] == time

    def release(self) -> None:
        """Let go of the tensors of a run that is over."""
        if self.over:
            self.model_outputs = [None] * len(self.model_outputs)
            self.last_sample = self.last_noise = None

    def at(self, times: np.ndarray | float) -> Points:
        """The points of whole training times, from alpha^2; before the first one, of the schedule's end."""
        table = np.append(self.alphas_cumprod, self.final_alpha_cumprod)
        alpha2 = table[np.where(np.asarray(times) < 0, len(table) - 1, times).astype(int)]
        return Points(np.asarray(times, dtype=np.float64), np.sqrt(alpha2), np.sqrt(1 - alpha2))

    def __getstate__(self) -> dict[str, object]:
        left = {"last", "kernel", "case", "table", "key", "span", "watch", "hat"}
        if self.noise_seed is not None:  # a Brownian tree has no copy; it grows again from its seed
            left.add("noise_sampler")
        return {k: v for k, v in self.__dict__.items() if k not in left}


_PROGRESS = (
    "last", "last_sample", "lower_order_nums", "_step_index", "begin", "table", "key", "model_outputs", "noise_sampler",
    "noise_seed", "last_noise",
)  # fmt: skip


class ThreadLocalRuns(threading.local):
    """The runs of each thread, the latest first. A thread that has made none sees the latest of all."""

    def __init__(self, shared: SimpleNamespace) -> None:
        self.shared = shared
        self.run: RunState = shared.latest
        self.runs: list[RunState] = [self.run]

    @classmethod
    def of(cls, run: RunState) -> ThreadLocalRuns:
        """Whose latest is this run."""
        return cls(SimpleNamespace(latest=run))

    def use(self, run: RunState) -> RunState:
        """Make it the current run."""
        others = [other for other in self.runs if other is not run]
        for other in others:
            other.release()
        self.runs = [run, *others][:MAX_RUNS]
        self.run = self.shared.latest = run
        return run

    def with_element(self, timestep: object) -> tuple[RunState, int | None]:
        """The latest run whose own `timesteps` this is an element of, and which; (the current run, None) if none is."""
        for run in self.runs:
            place = run.place(timestep)
            if place is not None:
                return run, place
        return self.run, None

    def __reduce__(self) -> tuple:
        return ThreadLocalRuns.of, (self.run,)

    def __deepcopy__(self, memo: dict) -> ThreadLocalRuns:
        return ThreadLocalRuns.of(copy.deepcopy(self.run, memo))


class RunAttribute:
    """An attribute of the current run of the calling thread."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, scheduler: object, owner: type | None = None) -> object:
        return self if scheduler is None else getattr(scheduler._threads.run, self.name)

    def __set__(self, scheduler: object, value: object) -> None:
        run = scheduler._threads.run
        setattr(run, self.name, value)
        if self.name in scheduler.recipe.space.run_tensors:
            run.times = run.host_sigmas = run.scales = run.table = None


@contextlib.contextmanager
def new_run(scheduler: Scheduler) -> Iterator[RunState]:
    """A run whose times are set in here."""
    # Tensors made outside inference mode count the edits that a host makes to them.
    with torch.inference_mode(False):
        run = scheduler._threads.use(RunState())
        yield run
        scheduler._prepare(run)

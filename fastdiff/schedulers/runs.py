"""Which run a step belongs to, and which of its rows.

A run is what set_timesteps begins, or a new pass over the same timesteps. Threads that share a scheduler never see each
other's runs. In one thread a step at one of the new `timesteps` begins the run that set_timesteps made; any other
belongs to the run whose latest result it is given; else to the run whose `timesteps` it is given an element of. So
interleaved runs are kept apart if each has called set_timesteps or hands on the very tensor that step returned.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .run_state import RunState, Scheduler


def run_of_step(scheduler: Scheduler, timestep: object, sample: Tensor) -> RunState:
    """The run that this step continues or begins, made the current one of its thread."""
    threads = scheduler._threads
    run = threads.run
    scheduler._require_steps(run)
    place = run.place(timestep) if run._step_index is None else None
    if place is not None:
        begin(scheduler, run, place, timestep)
        return run
    for run in threads.runs:
        if run.last is not None and run.last() is sample:
            return threads.use(run)
    own = [run for run in threads.runs if run.place(timestep) is not None]
    place = own[0].place(timestep) if own else None
    waiting = [run for run in own if run._step_index == place]
    run = waiting[0] if waiting else threads.run if threads.run in own or not own else own[0]
    if run._step_index is not None and not waiting and _begins(scheduler, run, place, timestep):
        run = run.again()
    if run._step_index is None:
        begin(scheduler, run, place, timestep)
    return threads.use(run)


def run_at_time(scheduler: Scheduler, timestep: object) -> RunState:
    """The same for solvers whose steps depend on their time alone: in any order and number, off the list too."""
    threads = scheduler._threads
    scheduler._require_steps(threads.run)
    run, place = threads.with_element(timestep)
    if run.times is None:
        scheduler._prepare(run)
    if place is None:
        found = np.flatnonzero(run.times == float(timestep))
        if not len(found):
            run = run.again()
            run.times = np.array([float(timestep)])
        place = int(found[0]) if len(found) else 0
    run.begin, run._step_index, run.lower_order_nums = 0, place, place
    run.model_outputs = [None]
    return run


def row_to_read(scheduler: Scheduler, timestep: object, sample: Tensor) -> tuple[RunState, int]:
    """The run and the row whose step will be given what the model makes of this sample."""
    threads = scheduler._threads
    run = threads.run
    if run.last is not None and run.last() is sample:
        return run, run._step_index
    run, place = threads.with_element(timestep)
    if scheduler.recipe.begins_at_place and place is not None:
        return run, place
    scheduler._refresh(run)
    if scheduler.recipe.begins_at_place:
        time = float(timestep)
        return run, run._step_index if run.waits_for(time) else index_of(scheduler, time, run.times)
    if place is None:
        if run._step_index is None:
            begin(scheduler, run, None, timestep)
        return run, run._step_index
    if run._step_index is None:
        known = run._begin_index is not None
        return run, run._begin_index if known else index_of(scheduler, run.times[place], run.times)
    return run, run._step_index if run.waits_for(run.times[place]) else place


def begin(scheduler: Scheduler, run: RunState, place: int | None, timestep: object) -> None:
    """Begin the run: where the pipeline has said, else at the time, which is the element `place` if that is known."""
    scheduler._refresh(run, run.watch is not None and run.watch.blind)
    if run._begin_index is not None:
        run._step_index = run._begin_index
    elif place is not None:
        at_place = scheduler.recipe.begins_at_place
        run._step_index = place if at_place else index_of(scheduler, run.times[place], run.times)
    else:
        run._step_index = index_of(scheduler, float(timestep), run.times)
    run.begin, run.lower_order_nums, run.table = run._step_index, 0, None


def _begins(scheduler: Scheduler, run: RunState, place: int | None, timestep: object) -> bool:
    """Whether a step that the run does not wait for is the first of a new one."""
    if place is not None:
        return place == run.begin
    scheduler._refresh(run)
    time = float(timestep)
    return time == run.times[run.begin] and (run.over or time != run.times[run._step_index])


def index_of(scheduler: Scheduler, time: float, times: np.ndarray) -> int:
    """Where a run that is given this time begins: 0 if it is the first time, else its second place, if it has two.

    The second, as in diffusers: where each step has two evaluations, a step begins there.
    """
    found = np.flatnonzero(times == time)
    if len(found):
        return int(found[min(1, len(found) - 1)]) if found[0] else 0
    if scheduler.recipe.space.absent_is_last:
        return len(scheduler.timesteps) - 1
    raise UnknownTimeError(f"timestep: expected one of scheduler.timesteps, got {time}")


class UnknownTimeError(IndexError, ValueError):
    """A time that is not the run's: in diffusers the one error in some classes, the other in others."""

"""StepBatch: requests with plans of their own share the model's calls, and join and leave between any two steps."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...ops import checks
from ...ops.reference import compute_dtype
from ...plans.plan import Plan
from ..program import program_of
from ..rule import Guidance
from .bounds import table_for
from .inputs import Inputs
from .options import Options, check_sizes, check_told
from .pool import Pool, Rows, buffers_of
from .queue import Queue
from .request import asked_of
from .running import Running
from .ticket import Ticket

STATIC_BUFFERS = 7  # what the rows of every solver in the catalogue need, but for pndm's 9


class StepBatch:
    """Continuous batching: one model call steps requests that stand at different rows of different plans.

        batch = fd.StepBatch((1, 8, 8), 16, conditions={"y": nobody}, uncond={"y": nobody})
        ticket = batch.add(plan, seeds=[3], guidance=4.0, conditions={"y": 7})
        while batch:
            x, t, conditions = batch.inputs()
            finished = batch.step(model(x, t, **conditions))
        ticket.result

    Each sample's result is that of `fastdiff.sample` with the same arguments, bit for bit as far as the model gives a
    sample the same output in any batch. Waiting requests join at `inputs()`, first come, first served.

    shape: of one sample, without the batch. slots: the most samples that run at a time, B.
    conditions: for each keyword of the model a tensor without the batch, what a sample is told that says nothing else.
    uncond: the same of the unconditional evaluation, other values for some of the keywords; None where there is no
        guidance.
    dtype: of noise and results. The state is float32, or float64 for float64. model_dtype: of the x that the model
        reads; dtype if None. device: of all tensors.
    static: every step makes all B evaluations, or 2 B where there is `uncond`, in tensors that stay where they are, so
        that a captured graph serves whatever requests come. Otherwise only those that are needed are made.
    previews: keep what `x0` reads.
    rows: the most rows of different plans in use at a time. buffers: the most tensors [B, ...] of the state. By
        default they are made when a plan first needs them; a static batch has 7 from the start.
    Not for several threads at a time. Raises TypeError or ValueError naming the argument.
    """

    @torch.no_grad()
    def __init__(
        self,
        shape: Sequence[int],
        slots: int,
        *,
        conditions: Mapping[str, Tensor] | None = None,
        uncond: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        model_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        static: bool = False,
        previews: bool = False,
        rows: int = 1024,
        buffers: int | None = None,
    ) -> None:
        check_sizes(shape, slots=slots, rows=rows, buffers=1 if buffers is None else buffers)
        model_dtype, device = model_dtype or dtype, torch.empty(0, device=device).device
        for name, kind in (("dtype", dtype), ("model_dtype", model_dtype)):
            if kind not in checks.FLOATS:
                raise ValueError(f"{name}: expected a floating-point dtype, got {kind}")
        told = {name: torch.as_tensor(value, device=device) for name, value in (conditions or {}).items()}
        without = None
        if uncond is not None:
            without = {name: torch.as_tensor(value, device=device) for name, value in uncond.items()}
        check_told(told, without)
        if static and buffers is None:
            buffers = STATIC_BUFFERS
        self._options = options = Options(tuple(shape), slots, dtype, device, static, rows, buffers, told, without)
        copies = 2 if static and uncond is not None else 1  # otherwise they are gathered
        self._pool = Pool((slots, *shape), compute_dtype(dtype), model_dtype, device, copies)
        self._pool.grow(buffers if static and buffers is not None else 1)
        self._rows = Rows(rows, device, previews)
        self._inputs = Inputs(self._pool, told, options.told_without, static)
        self._queue, self._running = Queue(), dict[Ticket, Running]()
        self._free = list(range(slots))  # a heap
        self._previews = previews
        self._owners: list[Ticket | None] | None = None  # of the inputs that wait for their step

    def __len__(self) -> int:
        """The number of requests that wait or run."""
        return len(self._queue) + len(self._running)

    @property
    def slots(self) -> int:
        """The most samples that run at a time."""
        return self._options.slots

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> tuple[Ticket, ...]:
        """The requests that run, in the order in which they joined."""
        return tuple(self._running)

    @torch.no_grad()
    def add(
        self,
        plan: Plan,
        noise: Tensor | None = None,
        *,
        seeds: Sequence[int] | Tensor | int | None = None,
        guidance: float | Tensor | Guidance | None = None,
        conditions: Mapping[str, object] | None = None,
        uncond: Mapping[str, object] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        clamp: float | None = None,
        threshold: float | None = None,
        threshold_limit: float = 1.0,
        priority: float = 0.0,
    ) -> Ticket:
        """Ask for n samples and return the request's `Ticket`. They join together, when n slots are free.

        plan, image, mask, clamp, threshold, threshold_limit: as for `fastdiff.sample`. A plan of cheap calls, or one
        that reuses unconditional outputs, cannot be run here.
        noise: [n, ...]; `fastdiff.noise.randn` of the seeds if None. seeds: n whole numbers, or one.
        guidance: a number, [n], or one of `fastdiff.guidance` that is a scale at each row, as `CFG` in an interval.
        conditions, uncond: what the samples are told, as for the batch itself: [n, ...] or without the batch.
        priority: requests of a higher one are served before others that wait.
        Raises TypeError or ValueError naming the argument; nothing has changed then.
        """
        asked = asked_of(
            plan, self._options, noise, seeds, guidance, conditions, uncond, image, mask, clamp, threshold,
            threshold_limit,
        )  # fmt: skip
        if isinstance(priority, bool) or not isinstance(priority, (int, float)) or math.isnan(priority):
            raise ValueError(f"priority: expected a number, got {priority!r}")
        ticket = Ticket(plan, len(asked.start), _asked=asked)
        self._queue.push(ticket, priority)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Give up a request that waits or runs, at any time. False where it is of another batch, or done."""
        if ticket in self._running:
            self._leave(ticket)
        elif not self._queue.remove(ticket):
            return False
        ticket.state, ticket._asked = "cancelled", None
        return True

    @torch.no_grad()
    def inputs(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(x, t, conditions): what the model is called with next, as model(x, t, **conditions).

        x: [n, ...]. t: [n]. Waiting requests join first. Without requests n is 0, unless the batch is static.
        """
        self._admit()
        for ticket, running in self._running.items():
            running.write_numbers(ticket.i)
        owners = {slot: ticket for ticket, running in self._running.items() for slot in running.slots}
        without, having = self._inputs.slots()
        self._owners = [owners.get(slot) for slot in without + having]
        return self._inputs.take()

    @property
    def owners(self) -> list[Ticket | None]:
        """Whose each sample is that `inputs` gave last; None for what a static batch evaluates for nobody."""
        return list(self._owners or ())

    @torch.no_grad()
    def step(self, outputs: Tensor) -> list[Ticket]:
        """Run a row of each request on what the model returned for `inputs`; the requests that are finished by it."""
        self._require_inputs()
        self.update(outputs)
        return self.advance()

    @torch.no_grad()
    def update(self, outputs: Tensor) -> None:
        """The device's part of `step`. A graph can hold it, after the model's call, where the batch is static."""
        m, m_uncond = self._inputs.outputs(outputs)
        scales = self._pool.scales()
        bounded = [(ticket.i, running) for ticket, running in self._running.items() if running.has_launches]
        if bounded:
            m, scales = m.to(self._pool.dtype, copy=True), scales.clone()
        for i, running in bounded:
            running.bound(i, m, m_uncond, scales)
        self._pool.launch(self._rows.tensor, m, m_uncond, scales)

    @torch.no_grad()
    def advance(self) -> list[Ticket]:
        """The host's part of `step`, after `update` or the replay of a graph that holds it."""
        self._require_inputs()
        self._owners = None
        finished = []
        for ticket, running in list(self._running.items()):
            running.keep_known(ticket.i)
            ticket.i += 1
            if ticket.i == ticket.plan.nfe:
                ticket.result, ticket.state, ticket._asked = running.result(), "finished", None
                self._leave(ticket)
                finished.append(ticket)
        return finished

    @torch.no_grad()
    def x0(self, ticket: Ticket) -> Tensor:
        """[n, ...] the data predicted by the last evaluation of a request that runs, a new tensor.

        Raises ValueError where it has not been stepped yet or is done, and in a batch without previews.
        """
        if not self._previews:
            raise ValueError("x0: the batch keeps no predictions; pass it previews=True")
        if ticket not in self._running or not ticket.i:
            raise ValueError(f"ticket: expected one that runs and has been stepped, got {ticket!r}")
        return self._running[ticket].x0(ticket.i - 1)

    def _require_inputs(self) -> None:
        if self._owners is None:
            raise ValueError("outputs: expected a call of inputs before every step, got none since the last one")

    def _admit(self) -> None:
        """Let requests join for as long as the one that is next fits."""
        while (ticket := self._queue.head()) is not None and ticket.size <= len(self._free):
            asked = ticket._asked
            assert asked is not None
            bounds, table = table_for(ticket.plan, asked)
            if not self._rows.has_room(ticket.plan, bounds):
                return
            self._pool.grow(buffers_of(program_of(ticket.plan).apart))
            self._queue.pop()
            entry = self._rows.acquire(ticket.plan, bounds, table)
            slots = [heapq.heappop(self._free) for _ in range(ticket.size)]
            self._running[ticket] = running = Running(entry, asked, self._pool, slots)
            self._inputs.tell(running.index, asked.conditions, asked.uncond)
            ticket.state = "running"

    def _leave(self, ticket: Ticket) -> None:
        """Free what a request holds."""
        running = self._running.pop(ticket)
        running.leave()
        self._rows.release(running.entry)
        for slot in running.slots:
            heapq.heappush(self._free, slot)

"""The thread that steps the batch: requests come in through `submit`, events go out through each job's `emit`."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from torch import Tensor

import fastdiff as fd

from .isolate import evaluate
from .job import Event, Job
from .metrics import Metrics

log = logging.getLogger(__name__)
POLICIES = ("continuous", "groups", "one")
STUCK = 30.0  # seconds without an end of a step


class Refused(Exception):
    """A request that is not taken: 429 where the queue is full, 503 where the server is ending."""

    def __init__(self, status: int, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


class Worker:
    """Steps a `StepBatch` with a model for as long as there are requests.

    most_waiting: requests beyond it are refused. policy: "continuous", where requests join at any step; for comparison
    "groups", where they join when all others have left, and "one", where one runs at a time.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        batch: fd.StepBatch,
        metrics: Metrics,
        *,
        most_waiting: int = 64,
        policy: str = "continuous",
    ) -> None:
        self._model, self._batch, self._metrics = model, batch, metrics
        self._most_waiting, self._policy = most_waiting, policy
        self._inbox, self._jobs = deque[Job](), dict[fd.Ticket, Job]()
        self._news = threading.Condition()
        self._stopping, self._busy_since = False, 0.0
        self._seconds_each = 0.1  # between two requests that are done, lately
        metrics.waiting.set_function(lambda: self.waiting)
        metrics.running.set_function(lambda: len(batch) - batch.waiting)
        self._thread = threading.Thread(target=self._run, name="step batch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step at hand; requests that are not done are told so."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Take a job. Raises `Refused`."""
        with self._news:
            waiting = self.waiting
            if self._stopping or not self._thread.is_alive():
                raise Refused(503, "the server is ending", 10)
            if waiting >= self._most_waiting:
                raise Refused(429, f"{waiting} requests wait already", math.ceil(waiting * self._seconds_each))
            self._inbox.append(job)
            self._news.notify()

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._inbox) + self._batch.waiting

    @property
    def healthy(self) -> bool:
        """Whether the thread is there and no step takes too long."""
        since = self._busy_since
        return self._thread.is_alive() and not (since and time.monotonic() - since > STUCK)

    def _run(self) -> None:
        try:
            while self._wait():
                self._busy_since = time.monotonic()
                self._let_in()
                self._give_up()
                self._step()
                self._busy_since = 0.0
        except Exception:
            log.exception("the worker ends")
        with self._news:
            self._stopping = True
            for job in (*self._inbox, *self._jobs.values()):
                self._end(job, Event("error", status=503, detail="the server is ending"), "stopped")

    def _wait(self) -> bool:
        """Wait for work; False to end."""
        with self._news:
            self._news.wait_for(lambda: self._stopping or self._inbox or len(self._batch))
            return not self._stopping

    def _let_in(self) -> None:
        """Move jobs from the inbox to the batch."""
        most = {"continuous": math.inf, "groups": math.inf if not len(self._batch) else 0, "one": 1 - len(self._batch)}
        count, slots = most[self._policy], self._batch.slots
        while count > 0:
            with self._news:
                if not self._inbox:
                    return
                job = self._inbox[0]
                slots -= len(job.options["seeds"])
                if self._policy == "groups" and slots < 0:
                    return
                self._inbox.popleft()
            count -= 1
            try:
                job.ticket = self._batch.add(job.plan, **job.options)
            except (TypeError, ValueError) as error:
                self._end(job, Event("error", status=422, detail=str(error)), "malformed")
            else:
                self._jobs[job.ticket] = job

    def _give_up(self) -> None:
        """Cancel what nobody waits for, and what is overdue."""
        with self._news:
            over = [job for job in (*self._inbox, *self._jobs.values()) if job.gone or job.overdue]
        for job in over:
            outcome = "gone" if job.gone else "timeout"
            self._cancel(job, Event("error", status=504, detail=f"not done within {job.timeout:g} s"), outcome)

    def _step(self) -> None:
        """One call of the model, one row of every request."""
        if not len(self._batch):
            return
        x, t, conditions = self._batch.inputs()
        with self._metrics.step.time():
            m, failed = evaluate(self._model, x, t, conditions, self._batch.owners)
            for ticket, error in failed.items():
                log.warning("the model raised for one request: %s", error)
                self._cancel(self._jobs[ticket], Event("error", status=500, detail=f"model: {error}"), "failed")
            finished = self._batch.step(m)
        self._metrics.evaluations.inc(len(x))
        for ticket in self._batch.running:
            job = self._jobs[ticket]
            if job.previews and ticket.i % job.previews == 0:
                with contextlib.suppress(ValueError):  # a row that does not read the model predicts nothing
                    job.emit(Event("step", ticket.i, self._batch.x0(ticket)))
        for ticket in finished:
            job = self._jobs.pop(ticket)
            self._metrics.latency.observe(time.monotonic() - job.began)
            self._end(job, Event("done", ticket.i, ticket.result), "done")

    def _cancel(self, job: Job, event: Event, outcome: str) -> None:
        with self._news:
            if job in self._inbox:
                self._inbox.remove(job)
        if job.ticket is not None:
            self._batch.cancel(job.ticket)
            self._jobs.pop(job.ticket, None)
        self._end(job, event, outcome)

    def _end(self, job: Job, event: Event, outcome: str) -> None:
        self._metrics.requests.labels(outcome).inc()
        job.emit(event)

"""The web server: POST /draw streams lines of JSON, GET /healthz and /metrics say how it is."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import StreamingResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

from .fixed_batch import FixedBatch
from .job import Event, Job
from .metrics import Metrics
from .requests import Draw
from .worker import Refused, Worker

UNREAD = 2  # events that may wait for a slow client before previews are left out


def create_app(
    model: Callable[..., Tensor] | None = None,
    *,
    slots: int = 32,
    batch: int = 8,
    most_waiting: int = 64,
    policy: str = "continuous",
) -> FastAPI:
    """The application. The others: as for `StepBatch` and `Worker`.

    model: the shipped one if None, in calls of `batch` samples each, or of any number where that is 0.
    """
    nobody = {"y": torch.tensor(demo.NUM_CLASSES)}
    steps = fd.StepBatch(demo.SHAPE, slots, conditions=nobody, uncond=nobody, previews=True)
    metrics = Metrics()
    if model is None:
        model = FixedBatch(demo.load_model(), batch) if batch else demo.load_model()
    worker = Worker(model, steps, metrics, most_waiting=most_waiting, policy=policy)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="fastdiff digits", lifespan=lifespan)

    @app.post("/draw")
    async def draw(asked: Draw) -> StreamingResponse:
        events: asyncio.Queue[Event] = asyncio.Queue()
        try:
            job = Job(asked.plan(), asked.options(), sender(events), asked.previews, asked.timeout)
            worker.submit(job)
        except (TypeError, ValueError) as error:
            metrics.requests.labels("malformed").inc()
            raise HTTPException(422, str(error)) from error
        except Refused as error:
            metrics.requests.labels("refused").inc()
            headers = {"Retry-After": str(error.retry_after)}
            raise HTTPException(error.status, error.detail, headers) from error
        return StreamingResponse(lines(job, events, asked.raw), media_type="application/x-ndjson")

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("ok" if worker.healthy else "stuck", 200 if worker.healthy else 503)

    @app.get("/metrics")
    async def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def sender(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """What puts an event into the queue from another thread. Previews that nobody reads in time are left out."""
    loop = asyncio.get_running_loop()

    def put(event: Event) -> None:
        if event.last or events.qsize() < UNREAD:
            events.put_nowait(event)

    return lambda event: loop.call_soon_threadsafe(put, event) and None


async def lines(job: Job, events: asyncio.Queue[Event], raw: bool) -> AsyncIterator[str]:
    """The events as lines of JSON. Where the client goes away this is closed, and the request with it."""
    try:
        while True:
            event = await events.get()
            yield json.dumps(message(event, job.plan.nfe, raw)) + "\n"
            if event.last:
                return
    finally:
        job.gone = True


def message(event: Event, steps: int, raw: bool) -> dict[str, Any]:
    """What a client reads of an event: {"event": "step" or "done", "step", "steps", "images"} or an error."""
    if event.x is None:
        return {"event": "error", "status": event.status, "detail": event.detail}
    try:
        images = [png(image) for image in demo.to_images(event.x)]
    except ValueError as error:
        return {"event": "error", "status": 500, "detail": str(error)}
    found: dict[str, Any] = {"event": event.kind, "step": event.i, "steps": steps, "images": images}
    if raw and event.kind == "done":
        found["samples"] = base64.b64encode(event.x.numpy().tobytes()).decode()
        found["shape"] = list(event.x.shape)
    return found


def png(image: Any) -> str:
    """A grey picture [H, W] uint8 as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

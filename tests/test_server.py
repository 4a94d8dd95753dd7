"""The example server: everyone gets the samples of fastdiff.sample, whatever happens to the others."""

from __future__ import annotations

import base64
import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

POISON = 7  # the label for which `Model` raises


@pytest.fixture(autouse=True)
def examples_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


class Model:
    """The same bits in any batch. It waits at the gate before each call, and raises for one label."""

    def __init__(self, is_open: bool = True) -> None:
        self.gate, self.entered, self.delay = threading.Event(), threading.Event(), 0.0
        if is_open:
            self.gate.set()

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.entered.set()
        assert self.gate.wait(30)
        time.sleep(self.delay)
        if (y == POISON).any():
            raise RuntimeError("a digit that it cannot draw")
        return x / (1 + x * x) * (0.5 + t / 2000).view(-1, 1, 1, 1) + 0.01 * y.view(-1, 1, 1, 1)


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """serve(model, **options) -> a client of a server on a port of its own."""
    ended = []

    def start(model: Callable | None, **options: Any) -> Any:
        app = importlib.import_module("examples.server.app").create_app(model, **options)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        ended.append((client, server, thread))
        return client

    yield start
    for client, server, thread in ended:
        client.close()
        server.should_exit = True
        thread.join()


def draw(client: Any, **asked: Any) -> list[dict]:
    """The events of a request."""
    response = client.post("/draw", json={"seeds": [1], "raw": True, "steps": 4, "solver": "unipc"} | asked)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def samples(event: dict) -> Tensor:
    assert event["event"] == "done", event
    return torch.from_numpy(np.frombuffer(base64.b64decode(event["samples"]), np.float32).copy()).view(event["shape"])


def alone(model: Callable, seeds: list[int], label: int = 10, guidance: float | None = None, **plan: Any) -> Tensor:
    """`fastdiff.sample` of the same."""
    solver, steps = plan.get("solver", "unipc"), plan.get("steps", 4)
    made = (
        demo.fitted_plan(steps)
        if solver == "fitted"
        else fd.plan(solver, demo.schedule(), steps, prediction="v_prediction")
    )
    noise, told = fd.noise.randn((len(seeds), *demo.SHAPE), seeds), {"y": torch.full((len(seeds),), label)}
    nobody = {"y": torch.full((len(seeds),), demo.NUM_CLASSES)}
    x = fd.sample(model, made, noise, seeds=seeds, guidance=guidance, uncond=nobody, **told)
    assert isinstance(x, Tensor)
    return x


def counts(client: Any) -> dict[str, float]:
    """Requests by how they ended."""
    text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("fastdiff_requests_total")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("waited too long")


@pytest.mark.slow
def test_many_clients_get_the_samples_of_the_shipped_model_bit_for_bit(serve):
    fixed = importlib.import_module("examples.server.fixed_batch").FixedBatch(demo.load_model(), 8)
    client = serve(None, slots=6)
    asked = [
        {"seeds": [3], "label": 4, "guidance": 2.5, "steps": 5},
        {"seeds": [4, 5, 6], "solver": "fitted", "steps": 6},
        {"seeds": [2**62], "solver": "dpmpp_2m_sde", "label": 1, "steps": 4},
        {"seeds": [8, 9], "solver": "heun", "guidance": -1.0, "label": 0, "steps": 3},
    ]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: draw(client, **each), asked))
    for each, events in zip(asked, answers, strict=True):
        assert torch.equal(samples(events[-1]), alone(fixed, **each)), each
    assert counts(client) == {"done": 4}
    assert client.get("/healthz").text == "ok"


def test_predictions_come_while_the_request_runs(serve):
    client = serve(Model())
    events = draw(client, seeds=[1, 2], previews=2, steps=7)
    assert [(e["event"], e["step"]) for e in events][-1] == ("done", 7)
    assert {e["step"] for e in events[:-1]} <= {2, 4, 6}  # a client that is too slow gets fewer
    assert len(events[0]["images"]) == 2
    assert base64.b64decode(events[0]["images"][0]).startswith(b"\x89PNG")


def test_a_malformed_request_is_refused_and_named(serve):
    client = serve(Model())
    wrong = [
        {"seeds": []}, {"seeds": [0.5]}, {"label": 11}, {"label": [1, 2]}, {"solver": "unipcc"}, {"grid": "nowhere"},
        {"steps": 0}, {"solver": "fitted", "steps": 7}, {"guidance": "nan"}, {"sedes": [1]},
    ]  # fmt: skip
    for each in wrong:
        response = client.post("/draw", json={"seeds": [1]} | each)
        assert response.status_code == 422, each
        assert any(name in response.text for name in each), response.text
    assert len(draw(client)) == 1


def test_a_request_that_the_model_cannot_answer_fails_alone(serve):
    model = Model(is_open=False)
    client = serve(model, slots=8)
    asked = [{"seeds": [k], "label": label, "guidance": 2.0} for k, label in enumerate((1, POISON, 2, 3))]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(draw, client, **each) for each in asked]
        assert model.entered.wait(30)
        time.sleep(0.1)  # most likely all are in the next call
        model.gate.set()
        found = [answer.result()[-1] for answer in answers]
    assert [event["event"] for event in found] == ["done", "error", "done", "done"]
    assert found[1]["status"] == 500
    assert "cannot draw" in found[1]["detail"]
    for each, event in zip(asked, found, strict=True):
        if each["label"] != POISON:
            assert torch.equal(samples(event), alone(Model(), **each))
    assert counts(client) == {"done": 3, "failed": 1}


def test_an_output_of_another_shape_is_an_error_of_the_model(serve):
    client = serve(lambda x, t, y: x[..., :4])
    (event,) = draw(client)
    assert event["status"] == 500
    assert "shape" in event["detail"]
    assert client.get("/healthz").text == "ok"


def test_an_overloaded_server_says_when_to_come_back_and_loses_nothing(serve):
    model = Model(is_open=False)
    client = serve(model, slots=1, most_waiting=2)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.post, "/draw", json={"seeds": [k], "raw": True}) for k in range(8)]
        until(lambda: counts(client).get("refused", 0) >= 5)
        model.gate.set()
        responses = [answer.result() for answer in answers]
    refused = [r for r in responses if r.status_code == 429]
    assert len(refused) + sum(r.status_code == 200 for r in responses) == 8
    assert len(refused) in (5, 6)  # one runs, two wait; whether the first was taken in time is a race
    assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
    assert counts(client)["done"] == 8 - len(refused)


def test_a_client_that_goes_away_leaves_its_place_to_others(serve):
    model = Model()
    model.delay = 0.2  # a hundred steps take far longer than to see that nobody listens
    client = serve(model, slots=1)
    with client.stream("POST", "/draw", json={"seeds": [1], "steps": 100, "previews": 1, "solver": "ddim"}) as stream:
        next(stream.iter_lines())
    until(lambda: counts(client).get("gone", 0) == 1)
    model.delay = 0.0
    assert torch.equal(samples(draw(client, seeds=[5])[-1]), alone(Model(), [5]))


def test_what_takes_too_long_is_given_up_and_the_others_finish(serve):
    client = serve(Model())
    with ThreadPoolExecutor(2) as pool:
        late, patient = (pool.submit(draw, client, seeds=[k], timeout=limit) for k, limit in ((1, 1e-9), (2, 60)))
        assert late.result()[-1]["status"] == 504
        assert torch.equal(samples(patient.result()[-1]), alone(Model(), [2]))
    assert counts(client) == {"timeout": 1, "done": 1}


@pytest.mark.parametrize("policy", ["continuous", "groups", "one"])
def test_whoever_joins_when_the_samples_are_the_same(serve, policy):
    client = serve(Model(), slots=3, policy=policy)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda k: draw(client, seeds=[k, k + 1], steps=3 + k % 3), range(6)))
    for k, events in enumerate(answers):
        assert torch.equal(samples(events[-1]), alone(Model(), [k, k + 1], steps=3 + k % 3))


class Working:
    """A worker of one slot, whose model waits at its gate in a step of the first of two jobs."""

    def __init__(self) -> None:
        name = "examples.server."
        self.server = importlib.import_module(name + "worker")
        self.model, self.told = Model(is_open=False), list[tuple[int, Any]]()
        batch = fd.StepBatch(demo.SHAPE, 1, conditions={"y": torch.tensor(10)})
        self.worker = self.server.Worker(self.model, batch, importlib.import_module(name + "metrics").Metrics())
        self.worker.start()
        plan, job = (
            fd.plan("ddim", demo.schedule(), 50, prediction="v_prediction"),
            importlib.import_module(name + "job"),
        )
        self.jobs = [job.Job(plan, {"seeds": [k]}, lambda event, k=k: self.told.append((k, event))) for k in range(2)]
        for each in self.jobs:
            self.worker.submit(each)
        assert self.model.entered.wait(30)


def test_what_runs_is_given_up_between_two_steps_and_who_waits_gets_its_place():
    working = Working()
    working.jobs[0].timeout = 0.0
    working.model.gate.set()
    until(lambda: len(working.told) == 2)
    working.worker.stop()
    assert [(k, event.kind, event.status) for k, event in working.told] == [(0, "error", 504), (1, "done", 200)]
    assert torch.equal(working.told[1][1].x, alone(Model(), [1], solver="ddim", steps=50))


def test_requests_are_told_that_the_server_ends():
    working = Working()
    ending = threading.Thread(target=working.worker.stop)
    ending.start()
    until(lambda: working.worker._stopping)
    working.model.gate.set()
    ending.join()
    assert [event.status for _, event in working.told] == [503, 503]
    assert not working.worker.healthy
    with pytest.raises(working.server.Refused, match="ending"):
        working.worker.submit(working.jobs[0])

"""python -m bench.serving: load on the example server, over loopback, into bench/results/serving.md.

Requests come at random times of a given rate, whether or not earlier ones are done. The policies are those of
`examples.server`: requests join at any step, in whole groups, or run one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from examples.server.fixed_batch import FixedBatch
from examples.server.requests import Draw
from fastdiff import demo

from .machine import processor
from .markdown import table
from .step_batch import table_of_calls, table_of_costs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "serving.md"
SLOTS, WAITING = 32, 24
KINDS = {  # the policy, and the samples in a call of the model; 0 for any
    "continuous": ("continuous", 0),
    "continuous, 8 a call": ("continuous", 8),
    "groups": ("groups", 0),
    "one": ("one", 0),
}
RATES = (0.5, 1.0, 2.0, 4.0)  # of what the server does one request at a time
CHECKED = 8  # of a load's answers


@dataclass
class Load:
    """What came of the requests of one load: seconds from their arrival, the number refused, and some answers."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    answers: list[tuple[dict, Tensor]] = field(default_factory=list)
    took: float = 0.0
    processor: float = 0.0  # seconds of the server's

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.seconds, q))


def some_request(rng: random.Random) -> dict[str, Any]:
    """One sample or two, 5 to 20 steps of four kinds of plans, half of them guided."""
    asked: dict[str, Any] = {"seeds": [rng.randrange(2**62) for _ in range(rng.choice((1, 1, 1, 2)))], "raw": True}
    asked["solver"] = rng.choice((None, "fitted", "unipc", "dpmpp_2m_sde"))
    asked["steps"] = 8 if asked["solver"] == "fitted" else rng.choice((5, 8, 12, 20))
    asked["guidance"], asked["label"] = rng.choice((None, 2.0)), rng.randrange(10)
    return asked


def check(answers: list[tuple[dict, Tensor]], batch: int, exact: bool) -> None:
    """They are those of `fastdiff.sample`: bit for bit where the model's calls are those of a request alone."""
    model = FixedBatch(demo.load_model(), batch) if batch else demo.load_model()
    for asked, got in answers:
        draw, n = Draw(**asked), len(asked["seeds"])
        nobody, label = (torch.full((n,), y) for y in (demo.NUM_CLASSES, asked["label"]))
        noise = fd.noise.randn((n, *demo.SHAPE), draw.seeds)
        uncond = {"y": nobody}
        right = fd.sample(model, draw.plan(), noise, seeds=draw.seeds, guidance=draw.guidance, uncond=uncond, y=label)
        assert isinstance(right, Tensor)
        assert torch.equal(got, right) if exact else torch.allclose(got, right, atol=1e-3), asked


async def ask(client: httpx.AsyncClient, asked: dict, load: Load) -> None:
    """Send one request and wait for its samples."""
    began = time.perf_counter()
    response = await client.post("/draw", json=asked)
    if response.status_code == 429:
        load.refused += 1
        return
    event = json.loads(response.text.splitlines()[-1])
    assert event["event"] == "done", event
    load.seconds.append(time.perf_counter() - began)
    if len(load.answers) < CHECKED:
        samples = np.frombuffer(base64.b64decode(event["samples"]), np.float32).copy()
        load.answers.append((asked, torch.from_numpy(samples).view(event["shape"])))


async def open_loop(port: int, rate: float, seconds: float, seed: int, load: Load) -> None:
    """Poisson arrivals at `rate` a second."""
    rng, tasks = random.Random(seed), []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits) as client:
        began = time.perf_counter()
        due = began
        while (due := due + rng.expovariate(rate)) < began + seconds:
            asked = some_request(rng)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, asked, load)))
        await asyncio.gather(*tasks)
        load.took += time.perf_counter() - began


async def closed_loop(port: int, seconds: float, seed: int) -> float:
    """Requests a second of a client that sends the next one when it has the answer."""
    rng, load = random.Random(seed), Load()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            await ask(client, some_request(rng), load)
    return len(load.seconds) / (time.perf_counter() - began)


class Server:
    """The example server in a process of its own."""

    def __init__(self, policy: str, batch: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = f"--slots {SLOTS} --most-waiting {WAITING} --batch {batch} --policy {policy}"
        command = [sys.executable, *f"-m examples.server --port {self.port} {options}".split()]
        self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise RuntimeError("the server has not started")

    def processor_seconds(self) -> float:
        lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("process_cpu_seconds_total"))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def row(rate: float, kind: str, load: Load) -> list[str]:
    half, most = (f"{1e3 * load.quantile(q):.0f}" for q in (0.5, 0.99))
    served = len(load.seconds)
    busy = f"{served / load.processor:.1f}"
    return [f"{rate:.1f}", kind, f"{served / load.took:.1f}", half, most, str(load.refused), busy]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serving")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=2, help="of each load; the servers take turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    args = parser.parse_args()
    servers = {kind: Server(*options) for kind, options in KINDS.items()}
    try:
        alone = [asyncio.run(closed_loop(servers["one"].port, args.seconds, args.seed + k)) for k in range(3)]
        capacity, rows = statistics.median(alone), []
        for rate in RATES:
            loads = {kind: Load() for kind in KINDS}
            for repeat in range(args.repeats):
                for kind, load in loads.items():
                    before = servers[kind].processor_seconds()
                    arrivals = open_loop(servers[kind].port, rate * capacity, args.seconds, args.seed + repeat, load)
                    asyncio.run(arrivals)
                    load.processor += servers[kind].processor_seconds() - before
            for kind, load in loads.items():
                check(load.answers, KINDS[kind][1], exact=kind in ("continuous, 8 a call", "one"))
                rows.append(row(rate * capacity, kind, load))
                print(*rows[-1], flush=True)
    finally:
        for server in servers.values():
            server.stop()
    RESULTS.write_text(report(capacity, rows, args))


def report(capacity: float, rows: list[list[str]], args: argparse.Namespace) -> str:
    note = f" {args.note}." if args.note else ""
    text = (
        f"# Serving\n\n`python -m bench.serving`, torch {torch.__version__}, {processor()}, {os.cpu_count()} cores,"
        f" {platform.system()}.{note} The example server on loopback, the client on the same machine. Requests arrive"
        f" at random (Poisson) in {args.repeats} loads of {args.seconds:.0f} s, the servers by turns: one sample or"
        " two of the digits network, 5 to 20 steps of the default, a fitted plan, UniPC or DPM-Solver++ 2M SDE, half"
        f" of them with guidance. The server has {SLOTS} slots and lets {WAITING} requests wait; others are refused"
        " with 429. Continuous: requests join at any step; groups: they join when all others have left; one: one at a"
        " time. A call of the model is a step's evaluations; or 8 samples, the last filled up, so that a sample's bits"
        " do not depend on the company. Milliseconds from a request's arrival to its samples, of those that were not"
        " refused. The last column, the requests served in a second of the server's processor time, depends least on"
        " what else the machine does. A client alone, which sends a request when it has the answer to the last one,"
        f" gets {capacity:.1f} a second from a server of one at a time. {CHECKED} answers of each row were compared"
        " with those of `fastdiff.sample`: the same bits with 8 a call and one at a time, equal to 1e-3 otherwise.\n\n"
    )
    head = [
        "arrivals a second",
        "requests join",
        "served a second",
        "p50 ms",
        "p99 ms",
        "refused",
        "served a processor second",
    ]
    costs = (
        "\n\n## Beside the model\n\nProcessor microseconds a step of DPM-Solver++ 2M without a model's time, joining"
        " and leaving included (40 steps), best and median of 15: requests in a StepBatch, in one batch of"
        " `fastdiff.sample`, and one after the other.\n\n"
    )
    calls = "\n\n## The network\n\nProcessor time of a call, the best of 15.\n\n"
    return text + table(head, rows) + costs + table_of_costs() + calls + table_of_calls() + "\n"


if __name__ == "__main__":
    main()

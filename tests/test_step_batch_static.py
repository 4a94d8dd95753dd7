"""A static StepBatch: every step is the same launches on the same memory, so a graph of one serves whatever comes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from step_batch_cases import SHAPE, TOLD, WITHOUT, alone, batch_of, drain, model, plan_of, some_request, step
from torch import Tensor
from torch.utils import _pytree as pytree

import fastdiff as fd

SOLVERS = ("dpmpp_2m", "unipc", "heun", "dpmpp_sde", "ddim")


def serve(batch: fd.StepBatch, record: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
    """Requests that come at random, by replays of what was recorded before the first of them."""
    x, t, conditions = batch.inputs()
    replay = record(lambda: batch.update(model(x, t, **conditions)))
    requests = [some_request([plan_of(name, random.randint(3, 6))]) for name in SOLVERS * 2]
    tickets = []
    while requests or batch:
        if requests and random.random() < 0.7:
            plan, options = requests.pop()
            tickets.append((batch.add(plan, **options), plan, options))
        batch.inputs()
        replay()
        batch.advance()
    for ticket, plan, options in tickets:
        assert torch.equal(ticket.result, alone(plan, device=x.device.type, **options))


def test_what_was_recorded_before_any_request_serves_all() -> None:
    serve(batch_of(4, static=True), lambda program: program)


@pytest.mark.gpu
def test_a_cuda_graph_of_one_step_serves_all() -> None:
    on_device = pytree.tree_map(lambda v: v.cuda(), (TOLD, WITHOUT))
    batch = fd.StepBatch(SHAPE, 4, conditions=on_device[0], uncond=on_device[1], device="cuda", static=True)

    def record(program: Callable[[], None]) -> Callable[[], None]:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            program()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            program()
        return graph.replay

    serve(batch, record)


def test_the_inputs_stay_where_they_are() -> None:
    batch, places = batch_of(3, static=True), set()
    for name in SOLVERS:
        batch.add(plan_of(name, 3), seeds=[1, 2], guidance=2.0)
    while batch:
        leaves: list[Tensor] = pytree.tree_leaves(batch.inputs())
        places.add(tuple(leaf.data_ptr() for leaf in leaves))
        assert {len(leaf) for leaf in leaves} == {6}
        step(batch)
    assert len(places) == 1


def test_idle_slots_may_evaluate_to_anything() -> None:
    batch, plan = batch_of(3, static=True), plan_of("dpmpp_2m", 4)
    ticket = batch.add(plan, seeds=[5])
    while batch:
        x, t, conditions = batch.inputs()
        m = model(x, t, **conditions)
        m[[owner is None for owner in batch.owners]] = torch.nan
        batch.step(m)
    assert torch.equal(ticket.result, alone(plan, seeds=[5]))


def test_the_memory_of_a_batch_is_used_again() -> None:
    batch = batch_of(2)
    plans = [plan_of(name, 4) for name in SOLVERS]
    for _ in range(2):
        for plan in plans:
            batch.add(plan, seeds=[1])
        drain(batch)
        pool = batch._pool
        places = {buffer.data_ptr() for buffer in pool.buffers}
    assert len(places) == len(pool.buffers) == 7  # unipc's
    assert len(batch._rows) == 0

"""StepBatch: requests that join and leave at any step get what fastdiff.sample gives them, bit for bit."""

from __future__ import annotations

import random

import pytest
import torch
from step_batch_cases import NUMBERED, SHAPE, TOLD, alone, batch_of, drain, model, plan_of, some_request, step

import fastdiff as fd


def check_traffic(batch: fd.StepBatch, requests: list, dtype: torch.dtype = torch.float32) -> None:
    """Add the requests between steps at random; everyone gets the samples of a run alone."""
    tickets, waiting = [], list(requests)
    while waiting or batch:
        while waiting and (not batch or random.random() < 0.6):
            plan, options = waiting.pop()
            tickets.append((batch.add(plan, **options), plan, options))
        step(batch)
    for ticket, plan, options in tickets:
        assert ticket.state == "finished"
        assert ticket.i == plan.nfe
        assert ticket.result is not None
        right = alone(plan, dtype, **options)
        assert ticket.result.dtype == right.dtype
        assert torch.equal(ticket.result, right), (plan, options)


@pytest.mark.parametrize("static", [False, True])
def test_every_solver_gives_the_same_bits_in_any_company(static: bool) -> None:
    plans = [plan_of(name, random.randint(4, 7)) for name in NUMBERED]
    requests = [some_request([plan]) for plan in plans]
    random.shuffle(requests)
    check_traffic(batch_of(5, static=static, buffers=9 if static else None), requests)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_dtype", [None, torch.float32, torch.bfloat16])
def test_the_bits_are_the_same_in_every_dtype(dtype: torch.dtype, model_dtype: torch.dtype | None) -> None:
    plans = [plan_of(name, 5) for name in ("dpmpp_2m", "unipc", "dpmpp_2s_ancestral")]
    batch = batch_of(4, dtype=dtype, model_dtype=model_dtype)
    requests = [some_request(plans, model_dtype=model_dtype) for _ in range(4)]
    tickets = [batch.add(plan, **{k: v for k, v in o.items() if k != "model_dtype"}) for plan, o in requests]
    drain(batch)
    for ticket, (plan, options) in zip(tickets, requests, strict=True):
        assert torch.equal(ticket.result, alone(plan, dtype, **options))


@pytest.mark.parametrize("static", [False, True])
def test_requests_that_come_and_go_at_random_disturb_nobody(static: bool) -> None:
    batch, going = batch_of(4, static=static, rows=16, previews=True), []
    for _ in range(120):
        if random.random() < 0.4:
            plan = plan_of(random.choice(("dpmpp_2m", "unipc", "heun", "dpmpp_sde")), random.randint(2, 6))
            limits = {} if static else random.choice(({}, {"clamp": 0.8}, {"threshold": 0.9}))
            plan, options = some_request([plan], **limits)
            going.append((batch.add(plan, priority=random.randrange(3), **options), plan, options))
        if going and random.random() < 0.1:
            batch.cancel(random.choice(going)[0])
        x, t, conditions = batch.inputs()
        if random.random() < 0.1:
            x, t, conditions = batch.inputs()  # asked again, it answers the same
        outputs = model(x, t, **conditions)
        if going and random.random() < 0.1:
            batch.cancel(random.choice(going)[0])
        batch.step(outputs)
        for ticket in batch.running:
            assert batch.x0(ticket).shape == (ticket.size, *SHAPE)
    drain(batch)
    assert {ticket.state for ticket, *_ in going} <= {"finished", "cancelled"}
    for ticket, plan, options in going:
        if ticket.state == "finished":
            assert torch.equal(ticket.result, alone(plan, **options))


FORMS = [("dpmpp_2m", {}), ("dpm_solver_2m", {}), ("unipc", {"form": "noise"}), ("heun", {}), ("dpmpp_3m_sde", {})]


@pytest.mark.parametrize(("solver", "form"), FORMS)
def test_bounds_on_x0_are_each_requests_own(solver: str, form: dict) -> None:
    bounds = [{}, {"clamp": 0.7}, {"threshold": 0.9}, {"threshold": 0.8, "threshold_limit": 1.5, "clamp": 1.2}]
    plans = [plan_of(solver, steps, **form) for steps in (4, 6)]
    check_traffic(batch_of(4), [some_request(plans, **bound) for bound in bounds * 2])


def test_requests_start_from_images_and_keep_what_the_mask_leaves_out() -> None:
    plans = [plan_of(name, 5, start=0.6) for name in ("dpmpp_2m", "unipc", "heun", "dpmpp_sde")]
    requests = []
    for masked in (False, True, True):
        image, mask = torch.rand(2, *SHAPE), random.choice([torch.rand(3, 5) > 0.5, torch.rand(2, *SHAPE)])
        options = {"image": image, "mask": mask} if masked else {"image": image}
        requests += [some_request([plan], seeds=[7, 8], conditions={}, guidance=2.0, **options) for plan in plans]
    check_traffic(batch_of(5), requests)


def test_an_interval_of_guidance_is_followed_row_by_row() -> None:
    guidance = fd.guidance.CFG(4.0, interval=(0.1, 3.0))
    plan = plan_of("dpmpp_2m", 8)
    batch, counts = batch_of(4), []
    tickets = [batch.add(plan, seeds=[1], guidance=guidance), batch.add(plan, seeds=[2], guidance=2.0)]
    while batch:
        counts.append(len(batch.inputs()[0]))
        step(batch)
    assert set(counts) == {3, 4}
    assert torch.equal(tickets[0].result, alone(plan, seeds=[1], guidance=guidance))


def test_noise_that_is_given_is_that_of_sample() -> None:
    plan, noise = plan_of("unipc", 5), torch.randn(2, *SHAPE)
    batch = batch_of(2)
    ticket = batch.add(plan, noise)
    expected = alone(plan, noise=noise.clone(), seeds=[0, 0])
    noise.zero_()  # the caller's again
    drain(batch)
    assert torch.equal(ticket.result, expected)


def test_requests_are_served_as_they_came_within_a_priority_and_large_ones_are_not_passed_over() -> None:
    batch, plan = batch_of(3), plan_of("ddim", 2)
    first = batch.add(plan, seeds=[0, 1])
    large = batch.add(plan, seeds=[2, 3, 4])
    small = batch.add(plan, seeds=[5])
    urgent = batch.add(plan, seeds=[6], priority=1)
    batch.inputs()
    assert batch.running == (urgent, first)  # urgent fills the slots beside it
    assert drain(batch) == [urgent, first, large, small]


def test_a_cancelled_request_leaves_the_others_as_they_are() -> None:
    plan = plan_of("unipc", 6)
    batch = batch_of(2)
    stays, goes, waits, late = (batch.add(plan, seeds=[k], guidance=3.0) for k in range(4))
    step(batch)
    x, t, conditions = batch.inputs()
    assert batch.cancel(goes)  # between inputs and step
    assert batch.cancel(waits)
    assert not batch.cancel(goes)
    batch.step(model(x, t, **conditions))
    assert (stays.i, goes.i, late.state) == (2, 1, "waiting")
    assert set(drain(batch)) == {stays, late}
    assert goes.result is None
    assert torch.equal(stays.result, alone(plan, seeds=[0], guidance=3.0))
    assert torch.equal(late.result, alone(plan, seeds=[3], guidance=3.0))
    assert not batch.cancel(stays)


def test_nothing_is_evaluated_that_nobody_needs() -> None:
    batch, plan = batch_of(8), plan_of("ddim", 2)
    batch.add(plan, seeds=[1, 2])
    guided = batch.add(plan, seeds=[3], guidance=2.0)
    x, t, conditions = batch.inputs()
    assert x.shape == (4, *SHAPE)
    assert t.shape == (4,)
    assert {len(value) for value in conditions.values()} == {4}
    assert batch.owners.count(guided) == 2
    assert conditions["label"].tolist() == [9, 0, 0, 0]
    assert len(batch_of(3).inputs()[0]) == 0


def test_previews_are_the_predictions_that_iter_sample_shows() -> None:
    for solver in ("dpmpp_2m", "dpm_solver_2m", "heun"):
        plan, batch = plan_of(solver, 4), batch_of(3, previews=True)
        ticket, seen = batch.add(plan, seeds=[4, 5]), []
        batch.add(plan_of("ddim", 9), seeds=[1])
        while not ticket.done:
            step(batch)
            seen += [] if ticket.done else [batch.x0(ticket)]
        told = {k: v.expand(2, *v.shape) for k, v in TOLD.items()}
        noise = fd.noise.randn((2, *SHAPE), [4, 5])
        right = [s.x0.clone() for s in fd.iter_sample(model, plan, noise, **told)][:-1]
        assert all(torch.equal(a, b) for a, b in zip(seen, right, strict=True))


def test_a_plan_stands_in_the_table_once_and_leaves_it_with_its_last_request() -> None:
    batch = batch_of(4, rows=10)
    plan, other = plan_of("dpmpp_2m", 6), plan_of("ddim", 6)
    same = [batch.add(plan, seeds=[k]) for k in range(3)]
    waits = batch.add(other, seeds=[9])
    step(batch)
    assert batch.running == tuple(same)
    assert waits.state == "waiting"  # a slot is free, and no room in the table
    assert drain(batch) == [*same, waits]
    assert torch.equal(waits.result, alone(other, seeds=[9]))


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("noise", {}),
        ("noise", {"noise": torch.randn(3, 2, 3, 4)}),
        ("noise", {"noise": torch.randn(3, *SHAPE, dtype=torch.float64)}),
        ("noise", {"seeds": range(9)}),
        ("noise", {"seeds": []}),
        ("seeds", {"seeds": [0.5]}),
        ("guidance", {"seeds": [1], "guidance": float("nan")}),
        ("guidance", {"seeds": [1], "guidance": fd.guidance.APG(3.0)}),
        ("guidance", {"seeds": [1], "guidance": torch.ones(2)}),
        ("conditions", {"seeds": [1], "conditions": {"lable": 1}}),
        ("conditions", {"seeds": [1], "conditions": {"label": 0.5}}),
        ("conditions", {"seeds": [1], "conditions": {"shift": torch.zeros(3)}}),
        ("uncond", {"seeds": [1], "uncond": {"label": "cat"}}),
        ("image", {"seeds": [1], "image": torch.zeros(1, 2)}),
        ("mask", {"seeds": [1], "mask": torch.zeros(SHAPE)}),
        ("clamp", {"seeds": [1], "clamp": -1.0}),
        ("priority", {"seeds": [1], "priority": float("nan")}),
        ("observation", {"seeds": [1], "observation": None}),
        ("particles", {"seeds": [1], "particles": 2}),
    ],
)
def test_a_wrong_request_is_named_and_changes_nothing(argument: str, options: dict) -> None:
    batch = batch_of(4)
    with pytest.raises((TypeError, ValueError), match=argument):
        batch.add(plan_of("ddim", 2), **options)
    assert len(batch) == 0


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("slots", {"slots": 0}),
        ("shape", {"shape": (2, 0.5)}),
        ("rows", {"rows": 0}),
        ("buffers", {"buffers": True}),
        ("dtype", {"dtype": torch.int64}),
        ("model_dtype", {"model_dtype": torch.bool}),
        ("uncond", {"uncond": {"caption": torch.tensor(1)}}),
        ("uncond", {"uncond": {"label": torch.zeros(2)}}),
    ],
)
def test_a_wrong_batch_is_named(argument: str, options: dict) -> None:
    with pytest.raises((TypeError, ValueError), match=argument):
        fd.StepBatch(**{"shape": SHAPE, "slots": 2, "conditions": TOLD} | options)


def test_one_seed_is_one_sample_also_without_elements() -> None:
    batch = fd.StepBatch((0, 3), 2)
    ticket = batch.add(plan_of("dpmpp_sde", 3), seeds=7)
    while batch:
        batch.step(torch.zeros_like(batch.inputs()[0]))
    assert ticket.result.shape == (1, 0, 3)


def test_a_plan_that_does_not_fit_is_named() -> None:
    cheap = plan_of("ddim", 4).with_calls(["full", "cheap"])
    for plan, match in ((cheap, "cheap"), (plan_of("ddim", 9), "rows"), (plan_of("pndm", 8), "buffers"), (3, "Plan")):
        with pytest.raises((TypeError, ValueError), match=f"plan: .*{match}"):
            batch_of(2, rows=8 if match == "rows" else 99, static=True).add(plan, seeds=[1])
    with pytest.raises(ValueError, match=r"threshold: .* static"):
        batch_of(2, static=True).add(plan_of("ddim", 2), seeds=[1], threshold=0.9)
    with pytest.raises(ValueError, match="uncond"):
        fd.StepBatch(SHAPE, 2).add(plan_of("ddim", 2), seeds=[1], guidance=2.0)


def test_a_step_needs_the_inputs_before_it_and_an_output_of_their_shape() -> None:
    batch = batch_of(2)
    ticket = batch.add(plan_of("ddim", 2), seeds=[1])
    with pytest.raises(ValueError, match="inputs"):
        batch.step(torch.zeros(1, *SHAPE))
    batch.inputs()
    with pytest.raises(ValueError, match=r"model: .*shape"):
        batch.step(torch.zeros(2, *SHAPE))
    drain(batch)
    assert torch.equal(ticket.result, alone(ticket.plan, seeds=[1]))

"""Plans whose rows reuse unconditional outputs: what a run of them is, what their files hold, and who refuses them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_guided_sampling import COND, SCHEDULE, SHAPE, UNCOND, Network, formula_of_run, noise

import fastdiff as fd
from fastdiff.comfyui.host_plan import sampler_of
from fastdiff.kdiffusion import plan_sampler

WEIGHTS = {2: (0.9,), 3: (1.3, -0.4), 5: (1.1, 0.2, -0.3)}  # by row; three calls before row 5
GUIDED = {"guidance": 3.0, "uncond": UNCOND}


def reusing(solver: str = "dpmpp_2m", schedule: fd.Schedule = SCHEDULE, **options: object) -> fd.Plan:
    plan = fd.plan(solver, schedule, 7, **options)
    rows = tuple(replace(row, uncond=WEIGHTS.get(i, ())) for i, row in enumerate(plan.rows))
    return replace(plan, rows=rows)


def combine(scale):
    """The formula: y = c + (1 - g) (u - c), with u - c from earlier ones where the row makes no call."""
    kept = []

    def combined(i, x, call):
        c = call(COND)
        if i in WEIGHTS:
            away = sum(b * difference for b, difference in zip(WEIGHTS[i], kept, strict=False))
        else:
            away = call(UNCOND) - c
            kept.insert(0, away)
        return c + (1 - scale) * away

    return combined


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun"])
@pytest.mark.parametrize("mode", ["batch", "calls"])
def test_a_row_without_the_call_takes_u_from_the_calls_before_it(solver, mode):
    plan, x, network = reusing(solver), noise(), Network()
    scales = torch.tensor([3.0, 1.0, 5.5], dtype=torch.float64)
    for scale, each in ((3.0, torch.full((3,), 3.0, dtype=torch.float64)), (scales, scales)):
        drawn = fd.sample(network, plan, x, guidance=scale, uncond=UNCOND, guidance_mode=mode, **COND)
        torch.testing.assert_close(drawn, formula_of_run(plan, x, network, combine(each.view(-1, 1, 1))))
    plain = fd.sample(network, plan, x, guidance=fd.guidance.CFG(3.0), uncond=UNCOND, **COND)
    torch.testing.assert_close(plain, formula_of_run(plan, x, network, combine(3.0)))


def test_the_network_is_called_as_often_as_the_rows_say():
    plan, network, batch = reusing(), Network(), SHAPE[0]
    steps = [step.evaluations for step in fd.iter_sample(network, plan, noise(), **GUIDED, **COND)]
    assert steps == [2, 2, 1, 1, 2, 1, 2]
    assert network.batches == [n * batch for n in steps]
    network.batches.clear()
    fd.sample(network, plan, noise(), guidance_mode="calls", **GUIDED, **COND)
    assert network.batches == [batch] * sum(steps)
    assert fd.guidance.calls(plan, fd.guidance.CFG(3.0)).made == tuple(steps)


def test_a_file_holds_the_weights_and_only_of_rows_that_have_some(tmp_path):
    plan = reusing()
    plan.save(tmp_path / "plan.json")
    assert fd.Plan.load(tmp_path / "plan.json") == plan
    rows = json.loads((tmp_path / "plan.json").read_text())["rows"]
    # Who does not know the field refuses the file; without such rows it is a file as before.
    assert {i: tuple(row["uncond"]) for i, row in enumerate(rows) if "uncond" in row} == WEIGHTS
    text = plan.explain()
    assert "7 model evaluations, 3 without an unconditional call" in text
    assert "u     = c + 1.3 (u - c)1 - 0.4 (u - c)2" in text


@pytest.mark.parametrize(
    ("row", "weights", "message"),
    [
        (0, (1.0,), "row 0 has 1 weights in uncond, with 0 unconditional calls before it"),
        (2, (1.0, 0.0, 0.0), "row 2 has 3 weights in uncond, with 2 unconditional calls"),
        (6, (1.0, 0.0, 0.0, 0.0), "row 6 has 4 weights .* at most 3 are kept"),
        (3, (float("nan"),), "row 3 has uncond .* expected a tuple of finite numbers"),
    ],
)
def test_a_row_cannot_reuse_calls_that_are_not_kept(row, weights, message):
    plan = fd.plan("dpmpp_2m", SCHEDULE, 7)
    rows = [replace(r, uncond=weights) if i == row else r for i, r in enumerate(plan.rows)]
    with pytest.raises(ValueError, match=message):
        replace(plan, rows=tuple(rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "guidance: the plan was fitted under guidance"),
        ({"guidance": 1.0}, "guidance: the plan was fitted under guidance"),
        ({"guidance": fd.guidance.APG(3.0), "uncond": UNCOND}, "expected a scale other than 1.*APG"),
        ({"guidance": 3.0}, "uncond: guidance needs"),
        ({"guidance": torch.ones(2), "uncond": UNCOND}, "guidance: expected shape"),
        ({"guidance": "3", "uncond": UNCOND}, "guidance: expected a number or a tensor"),
    ],
)
def test_a_run_without_plain_guidance_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fd.sample(Network(), reusing(), noise(), **options, **COND)


def test_those_who_get_the_guided_output_alone_refuse_such_a_plan():
    refused = "plan: some of its rows make no unconditional call"
    with pytest.raises(ValueError, match=refused):
        fd.PlanScheduler(plan=reusing())
    with pytest.raises(ValueError, match=refused):
        sampler_of(reusing())
    with pytest.raises(ValueError, match=refused):
        plan_sampler(reusing(schedule=fd.Schedule.edm(), prediction="sample"))
    with pytest.raises(ValueError, match=refused):
        fd.capture(Network(), reusing(), noise(), **GUIDED, **COND)

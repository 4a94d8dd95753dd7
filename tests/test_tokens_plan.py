"""Plans for tokens: what they are made of, their files, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdiff import tokens as ft
from fastdiff.tokens.rules.catalogue import RULES

PLANS = [ft.plan(name, None if rule.adaptive else 4) for name, rule in RULES.items()] + [
    ft.plan(ft.Threshold((0.9, 0.7)), sizes=[4, 8, 20], block=32),
    ft.plan(ft.ReMDM(0.1, "rescale", (0.2, 0.6)), 12, sizes="cosine"),
    ft.plan(ft.EntropyBound((0.1, 1), "margin")),
    ft.plan(ft.Uniform(2, 3), 5),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.rule.name)
def test_a_plan_is_the_same_from_its_file(plan: ft.Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert ft.Plan.load(tmp_path / "plan.json") == plan


def test_named_sizes() -> None:
    assert ft.plan("random", 4).sizes == (1, 1, 1, 1)
    reached = ft.plan("random", 2, sizes="cosine").reached
    assert abs(reached[1] / reached[2] - (1 - 0.5**0.5)) < 1e-6
    assert ft.plan("random", sizes=[3, 1]).steps == 2
    assert ft.plan("threshold").steps is None
    assert ft.plan("threshold", 7).steps == 7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": "confident"}, ValueError, "rule: expected one of .* got 'confident'"),
        ({"rule": "entropi"}, ValueError, "did you mean entropy?"),
        ({"rule": 3}, TypeError, "rule: expected a name or one of"),
        ({"steps": 0}, ValueError, "steps: expected a whole number >= 1, got 0"),
        ({"steps": 2.5}, ValueError, "steps: expected a whole number >= 1, got 2.5"),
        ({"steps": None}, ValueError, "steps: expected a whole number >= 1 for the rule random, got None"),
        ({"sizes": "linear"}, ValueError, "sizes: expected 'uniform', 'cosine' or whole numbers"),
        ({"sizes": [1, 2]}, ValueError, "sizes: expected one for each of 4 steps, got 2"),
        ({"sizes": [1, 2, 3, 0]}, ValueError, "sizes: expected whole numbers >= 0, the last one >= 1"),
        ({"sizes": [1, -2, 3, 1]}, ValueError, "sizes: expected whole numbers >= 0"),
        ({"sizes": [1, 2, 3, 4], "block": 32}, ValueError, "sizes: expected them to add up to .* 32, got 10"),
        ({"block": 0}, ValueError, "block: expected None or a whole number >= 1, got 0"),
        ({"rule": "first_hitting"}, ValueError, "sizes: expected none"),
    ],
)
def test_bad_plans_name_the_argument(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ft.plan(**{"rule": "random", "steps": 4, **arguments})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.Threshold(1.5), "tau: expected a number in"),
        (lambda: ft.Threshold(()), "tau: expected a number in"),
        (lambda: ft.Factor(0.0), "f: expected a number > 0"),
        (lambda: ft.EntropyBound(-1.0), "gamma: expected a number >= 0"),
        (lambda: ft.EntropyBound(by="size"), "by: expected one of confidence, margin, entropy"),
        (lambda: ft.Confidence(-1.0), "noise: expected a finite number >= 0"),
        (lambda: ft.ReMDM(2.0), r"eta: expected a number in \[0, 1\]"),
        (lambda: ft.ReMDM(schedule="loop"), "schedule: expected one of cap, rescale, confidence"),
        (lambda: ft.ReMDM(window=(0.5, 0.2)), "window: expected two numbers"),
        (lambda: ft.ThetaTrapezoidal(1.0), r"theta: expected a number in \(0, 1\)"),
        (lambda: ft.Editing(edit=-0.1), "edit: expected a number in"),
        (lambda: ft.Uniform(13), "corrections: expected a whole number from 0 to 12"),
        (lambda: ft.Uniform(1, 0), "positions: expected a whole number from 1"),
    ],
)
def test_bad_options_of_rules_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fastdiff_token_plan": 9}, "fastdiff_token_plan: expected version 1, got 9"),
        ({"rule": {"name": "best"}}, "rule: expected an object whose name is one of"),
        ({"rule": {"name": "threshold", "size": 3}}, "rule: .* 'size'"),
        ({"rule": {"name": "threshold", "tau": "high"}}, "rule: tau: expected"),
        ({"sizes": 4}, "sizes: expected null or a list, got 4"),
        ({"sizes": [1, "2"]}, "sizes: expected whole numbers"),
        ({"block": "all"}, "block: expected None or a whole number"),
        ({"more": 1}, "expected an object with the fields"),
    ],
)
def test_damaged_files_name_the_field(change: dict, message: str, tmp_path: Path) -> None:
    data = {**json.loads(json.dumps(ft.plan("random", 4).to_dict())), **change}
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"plan\.json: not a valid plan of fastdiff.tokens: {message}"):
        ft.Plan.load(tmp_path / "plan.json")

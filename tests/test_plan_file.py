"""Plan files: whatever is changed in one, it is refused by file and field, or loads and runs to the end."""

import copy
import json
import math
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdiff as fd
from fastdiff.plans.plan import Plan
from fastdiff.plans.row import LinearUpdate, Row

VP, FLOW = fd.Schedule.scaled_linear(), fd.Schedule.flow()
PLANS = [
    fd.plan("heun", fd.Schedule.edm(), 3), fd.plan("unipc", VP, 4, prediction="v_prediction"),
    fd.plan("dpmpp_sde", VP, 2), fd.plan("dpm_solver_3s", VP, 2), fd.plan("dpm_solver_v3", VP, 3),
    fd.plan("pndm", VP, 4), fd.plan("lms", FLOW, 4), fd.plan("midpoint", FLOW, 2, invert=True),
    fd.plan("sa_solver_pece", VP, 3),
]  # fmt: skip
NUMBERS = [0, -1, 1, 2.5, 1e308, -1e308, 1e-320, math.nan, math.inf, 10**400, 10**30, 2**32]
OTHERS = [None, True, "", "noise", "sample", [], {}, [None], [[1, 2]], {"x": 1}]


def places(node: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in the file."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [place for key, child in children for place in places(child, (*path, key))]


def at(node: object, path: tuple) -> object:
    for key in path:
        node = node[key]
    return node


@st.composite
def changed_files(draw) -> tuple[dict, tuple]:
    data = json.loads(json.dumps(draw(st.sampled_from(PLANS)).to_dict()))
    path = draw(st.sampled_from(places(data)))
    parent, key = at(data, path[:-1]), path[-1]
    how = draw(st.sampled_from(["replace", "replace", "delete", "repeat", "rename"]))
    if how == "replace":
        parent[key] = draw(st.sampled_from(NUMBERS + OTHERS))
    elif how == "delete":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[f"{key}_"] = parent.pop(key)
    return data, path


def use(plan: Plan, path) -> None:
    """All that a user does with a plan."""
    model = lambda x, t: 0.1 * x + t[:, None]  # noqa: E731
    for step in fd.iter_sample(model, plan, torch.ones(2, 3), seeds=[1, 2]):
        assert step.x0.shape == (2, 3)
    assert plan.explain().count("\n") >= plan.nfe
    assert plan.init_scale >= 0
    assert "\n" not in repr(plan)
    plan.save(path)
    assert Plan.load(path) == plan


@settings(max_examples=400)
@given(changed_files())
def test_a_changed_file_is_refused_by_name_and_field_or_loads_and_runs(tmp_path, changed):
    data, place = changed
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    try:
        plan = Plan.load(path)
    except ValueError as error:
        refused = str(error)
    else:
        use(plan, tmp_path / "again.json")
        return
    assert refused.startswith(f"{path}: not a valid fastdiff plan: ")
    named = [key for key in place if isinstance(key, str)]
    innermost = {key.removesuffix("s") for key in named[-2:]}  # "row 3" names rows
    assert any(re.search(rf"\b{key}s?\b", refused) for key in innermost), refused


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("rows", 0, "x"), None, r"rows\[0\]\.x: expected an object with the fields base, x, history, noise, got None"),
        (("rows", 1, "p_m"), 0, r"rows\[1\]\.p_m: expected a number other than 0 in noise form, got 0"),
        (("rows", 1, "alpha"), 0, r"rows\[1\]\.alpha, rows\[1\]\.sigma: got 0\.0, .*says nothing about x0"),
        (("rows", 1, "x", "history", 0), "a", r"rows\[1\]\.x\.history\[0\]: expected a number, got 'a'"),
        (("rows", 0, "x", "noise"), [[1]], r"rows\[0\]\.x\.noise\[0\]: expected a list of 2, got \[1\]"),
        (("rows", 0, "sigma"), -1.0, r"rows\[0\]\.sigma: expected alpha and sigma >= 0"),
        (("rows", 2, "drop_history"), [1.5], r"rows\[2\]\.drop_history: expected a whole number"),
        (("end",), [1.0, -2.0], "end: expected alpha and sigma >= 0"),
        (("schedule", 2), [1.0, 2.0], r"schedule\[2\]: expected a list of 3"),
        (("fastdiff_plan",), 4, "fastdiff_plan: expected plan version 3, got 4"),
    ],
)
def test_what_is_wrong_is_named_down_to_the_field(place, value, message, tmp_path):
    data = json.loads(json.dumps(fd.plan("dpm_solver_3m", VP, 4).to_dict()))
    at(data, place[:-1])[place[-1]] = value
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"wrong\.json: not a valid fastdiff plan: .*{message}"):
        Plan.load(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_file_cut_short_is_refused_by_name(share, tmp_path):
    path = tmp_path / "cut.json"
    PLANS[0].save(path)
    text = path.read_text().rstrip()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ValueError, match=r"cut\.json: not a valid fastdiff plan: "):
        Plan.load(path)


@pytest.mark.parametrize("what", ["missing.json", "."])
def test_what_is_no_file_is_an_error_of_the_system_with_its_name(what, tmp_path):
    with pytest.raises(OSError, match=re.escape(str(tmp_path / what))):
        Plan.load(tmp_path / what)


def row(reads: int, drop_history: tuple[int, ...] = ()) -> Row:
    return Row(0.5, 0.6, 0.8, "data", 0.0, 1.0, LinearUpdate(history=(0.1,) * reads), drop_history=drop_history)


@st.composite
def histories(draw) -> list[Row]:
    rows, kept = [], 0
    for _ in range(draw(st.integers(1, 12))):
        kept += 1
        drop_history = draw(st.lists(st.integers(0, kept - 1), unique=True, max_size=min(3, kept)))
        rows.append(row(draw(st.integers(0, min(kept, 8))), tuple(drop_history)))
        kept -= len(drop_history)
    return rows


def depth_by_definition(rows: list[Row]) -> int:
    """The furthest back that any output is before a row reads it, plus one."""
    history, places, depth = [], {}, 1
    for i, each in enumerate(rows):
        history = [i, *history]
        for k, output in enumerate(history):
            places[output] = max(k, places.get(output, 0))
        depth = max([depth, *(places[output] + 1 for output in history[: len(each.x.history)])])
        history = [output for k, output in enumerate(history) if k not in each.drop_history]
    return depth


@settings(max_examples=300)
@given(histories())
def test_depth_is_the_furthest_back_that_an_output_lies_before_it_is_read(rows):
    expected = depth_by_definition(rows)
    if expected <= 8:
        assert Plan(tuple(rows), (1.0, 0.0), "sample").depth == expected
    else:
        with pytest.raises(ValueError, match=f"{expected} outputs are needed at once"):
            Plan(tuple(rows), (1.0, 0.0), "sample")


def test_the_work_of_making_a_plan_grows_as_its_rows():
    def lines_run(count: int) -> int:
        rows, ran = tuple(row(min(i + 1, 2)) for i in range(count)), 0

        def trace(frame, event, argument):
            nonlocal ran
            ran += event in ("line", "call")
            return trace

        sys.settrace(trace)
        try:
            Plan(rows, (1.0, 0.0), "sample").table  # noqa: B018
        finally:
            sys.settrace(None)
        return ran

    assert lines_run(400) < 2.2 * lines_run(200)


def test_x0_of_a_row_that_does_not_read_the_model_is_refused():
    blind = Row(0.5, 0.6, 0.8, "noise", 1.0, 0.0, LinearUpdate(x=1.0))
    plan = Plan((blind,), (1.0, 0.0), "epsilon")
    step = next(fd.iter_sample(lambda x, t: x, plan, torch.ones(1, 2)))
    with pytest.raises(ValueError, match="x0: row 0 of the plan does not read the model"):
        step.x0  # noqa: B018


def test_a_plan_prints_in_one_line():
    text = repr(fd.plan("dpmpp_2m", VP, 10, grid="karras"))
    assert text == "<Plan dpmpp_2m on karras: 10 evaluations, epsilon, t 999 to 0, sigma 0.9977 to 0>"


def test_files_of_version_2_are_read():
    """It called drop_history "forget"."""
    plan = fd.plan("pndm", fd.Schedule.scaled_linear(), 8)
    old = json.loads(json.dumps(plan.to_dict()))
    old["fastdiff_plan"] = 2
    for row in old["rows"]:
        row["forget"] = row.pop("drop_history")
    assert any(row["forget"] for row in old["rows"])
    assert fd.Plan.from_dict(old) == plan

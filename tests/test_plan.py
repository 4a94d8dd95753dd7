"""The table: its numbers against hand-derived ones, its text, and its file."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.plans.plan import Plan
from fastdiff.plans.row import BASE_FROM_X, BASE_UNCHANGED, LinearUpdate, Row

# alpha and sigma are the legs of Pythagorean triangles: (7, 24, 25), (8, 15, 17), (4, 3, 5), (12, 5, 13), (24, 7, 25).
LEVELS = [24 / 7, 15 / 8, 3 / 4, 5 / 12, 7 / 24, 0]
ALPHAS = [7 / 25, 8 / 17, 4 / 5, 12 / 13, 24 / 25]
SIGMAS = [24 / 25, 15 / 17, 3 / 5, 5 / 13, 7 / 25]

# x' = a_x x + A_0 H_0 + A_1 H_1. By 2211.01095 algorithm 2 with e^-h the ratios 35/64, 2/5, 5/9, 7/10 of the levels and
# r = h_before / h: a_x = sigma_t/sigma_s, A_0 = alpha_t (1 - e^-h)(1 + 1/2r), A_1 = -alpha_t (1 - e^-h)/2r, in forty
# digits of mpmath. The first step is of order 1, and so is the last, which ends at sigma = 0: x' = H_0.
DPMPP_2M = [
    (0.91911764705882353, 0.21323529411764706, 0),
    (0.68, 0.84436953562086938, -0.36436953562086938),
    (0.64102564102564103, 0.54184305560318972, -0.13158664534677947),
    (0.728, 0.3753806688617721, -0.087380668861772101),
    (0, 1, 0),
]
# UniPC of order 3 with bh2, orders 1, 2, 3, 2, 1: (weight of base, of H_0, H_1, ...). By 2302.04867 algorithms 5 and 6
# as the authors' code solves them (hh = -h, R_nk = r_k^(n-1), b_n = n! hh phi_{n+1}(hh) / (e^hh - 1), 1/2 where there
# is one place only), the corrected state put into the predictor symbolically, in forty digits of mpmath.
UNIPC_X = [
    (0.91911764705882353, 0.21323529411764706),
    (0.625, 0.91686953562086938, -0.29186953562086938),
    (0.4358974358974359, 0.82722620593236943, -0.25433831287311126, 0.14506082488945978),
    (0.46666666666666667, 0.50865381981524426, 0.10479703877217637, -0.037640754262077009, 0.010856562341323052),
    (0, 1),
]
UNIPC_BASE = [
    None,
    (0.91911764705882353, 0.10661764705882353, 0.10661764705882353),
    (0.68, 0.22857913648494158, 0.32364143010836637, -0.072220566593307952),
    (0.64102564102564103, 0.18306751504597824, 0.26398036762905009, -0.051704332777578309, 0.014912860358960236),
    None,
]


def weights(line: LinearUpdate, length: int) -> list[float]:
    assert line.noise == ()
    return [line.base + line.x, *line.history, *[0.0] * (length - len(line.history))][: length + 1]


def test_rows_stand_where_the_grid_says_and_convert_epsilon_to_x0():
    rows = fd.plan("dpmpp_2m", fd.Schedule.vp(), sigmas=LEVELS).rows
    for row, alpha, sigma in zip(rows, ALPHAS, SIGMAS, strict=True):
        assert (row.alpha, row.sigma) == pytest.approx((alpha, sigma), rel=1e-14)
        assert (row.p_x, row.p_m) == pytest.approx((1 / alpha, -sigma / alpha), rel=1e-14)


def test_every_coefficient_of_five_dpmpp_2m_steps_is_the_hand_derived_one():
    plan = fd.plan("dpmpp_2m", fd.Schedule.vp(), sigmas=LEVELS)
    for row, expected in zip(plan.rows, DPMPP_2M, strict=True):
        assert weights(row.x, 2) == pytest.approx(expected, rel=1e-13)
        assert row.base is None
        assert row.x.base == 0


def test_every_coefficient_of_five_unipc_steps_is_the_hand_derived_one():
    plan = fd.plan("unipc", fd.Schedule.vp(), sigmas=LEVELS, order=3, variant="bh2")
    for i, (row, x, base) in enumerate(zip(plan.rows, UNIPC_X, UNIPC_BASE, strict=True)):
        assert weights(row.x, 4) == pytest.approx([*x, *[0] * (5 - len(x))], rel=1e-12)
        assert row.base == BASE_FROM_X if i == 0 else (row.base is None) == (base is None)
        if base is not None:
            assert weights(row.base, 4) == pytest.approx([*base, *[0] * (5 - len(base))], rel=1e-12)
            assert row.x.x == row.base.x == 0


@pytest.mark.parametrize(("form", "solver"), [("data", "dpmpp_3s"), ("noise", "dpm_solver_3s")])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize(("r1", "r2"), [(1 / 3, 2 / 3), (0.2, 0.9)])
def test_third_order_singlestep_is_the_official_update(r1, r2, correction, form, solver):
    """2206.00927 algorithm 5 and 2211.01095's singlestep, as the authors' code has them ("heun" is its "taylor")."""
    schedule = fd.Schedule.vp()
    plan = fd.plan(solver, schedule, sigmas=[15 / 8, 3 / 4], correction=correction, r1=r1, r2=r2)
    h = np.log(15 / 8 / (3 / 4)) * (1 if form == "data" else -1)
    stages = [schedule.at_log_snr(-np.log(15 / 8) + r * abs(h)) for r in (0, r1, r2, 1)]
    u = [float(p.alpha if form == "data" else p.sigma) for p in stages]
    w = [float(p.sigma if form == "data" else p.alpha) for p in stages]
    phi_1, phi_12 = np.expm1(-h), np.expm1(-r2 * h)
    phi_22, phi_2 = phi_12 / (r2 * h) + 1, phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    m_s, m_1, m_2 = np.eye(3)
    difference_1, difference_2 = (m_1 - m_s) / r1, (m_2 - m_s) / r2
    second = -u[2] * phi_12 * m_s + r2 / r1 * u[2] * phi_22 * (m_1 - m_s)
    last = -u[3] * phi_1 * m_s + u[3] * phi_2 * difference_2
    if correction == "heun":
        d1 = (r2 * difference_1 - r1 * difference_2) / (r2 - r1)
        d2 = 2 * (difference_2 - difference_1) / (r2 - r1)
        last = u[3] * (-phi_1 * m_s + phi_2 * d1 - phi_3 * d2)
    first = -u[1] * np.expm1(-r1 * h) * m_s
    for k, (row, expected) in enumerate(zip(plan.rows, (first, second, last), strict=True)):
        assert row.x.base == pytest.approx(w[k + 1] / w[0], rel=1e-12)
        np.testing.assert_allclose(row.x.history, expected[: k + 1][::-1], rtol=1e-11, atol=1e-14)


def test_explain_prints_what_each_evaluation_does():
    plan = fd.plan("heun", fd.Schedule.edm(), sigmas=[4, 2, 0], prediction="v_prediction")
    assert plan.explain() == "\n".join(
        [
            "heun on explicit: 3 model evaluations, v_prediction, H depth 2",
            "  0  t=4         alpha=1         sigma=4        D=x0=0.0588235 x - 0.235294 m",
            "     x'    = 0.5 base + 0.5 H0",
            "     base' = 1 base",
            "  1  t=2         alpha=1         sigma=2        D=x0=0.2 x - 0.4 m",
            "     x'    = 0.75 base - 0.5 x + 0.5 H0 + 0.25 H1",
            "  2  t=2         alpha=1         sigma=2        D=x0=0.2 x - 0.4 m",
            "     x'    = 1 H0",
        ]
    )


def test_explain_names_the_noises():
    text = fd.plan("dpmpp_sde", fd.Schedule.edm(), sigmas=[4, 1, 0], prediction="sample").explain()
    assert "xi1" in text.splitlines()[2]
    assert "xi1 + " in text.splitlines()[5]
    assert text.splitlines()[5].endswith("xi2")


PLANS = {
    entry.name: fd.plan(entry.name, fd.Schedule.scaled_linear(), 6, grid="karras", prediction="v_prediction")
    for entry in fd.solvers()
}


@pytest.mark.parametrize("name", PLANS)
def test_saved_plan_loads_back_bit_for_bit(name, tmp_path):
    plan = PLANS[name]
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.table.tobytes() == plan.table.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def spoil(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


SPOILERS = {
    "another version": lambda d: d.update(fastdiff_plan=1),
    "no version": lambda d: d.pop("fastdiff_plan"),
    "no rows": lambda d: d.update(rows=[]),
    "rows missing": lambda d: d.pop("rows"),
    "not a number": lambda d: d["rows"][1].update(p_x=float("nan")),
    "infinite weight": lambda d: d["rows"][1]["x"].update(base=float("inf")),
    "a word for a number": lambda d: d["rows"][1]["x"].update(base="1.0"),
    "true for a number": lambda d: d["rows"][1].update(p_m=True),
    "a number beyond float64": lambda d: d["rows"][1].update(p_m=10**400),
    "extra field in a row": lambda d: d["rows"][0].update(more=1),
    "field missing in a row": lambda d: d["rows"][0].pop("alpha"),
    "extra field in a line": lambda d: d["rows"][0]["x"].update(more=1),
    "field missing in a line": lambda d: d["rows"][0]["x"].pop("history"),
    "extra field": lambda d: d.update(more=1),
    "field missing": lambda d: d.pop("solver"),
    "history deeper than the rows made": lambda d: d["rows"][0]["x"].update(history=[0.5, 0.5]),
    "history deeper than the kernels keep": lambda d: d["rows"][5]["x"].update(history=[0.1] * 9),
    "unknown form": lambda d: d["rows"][0].update(form="velocity"),
    "unknown prediction": lambda d: d.update(prediction="velocity"),
    "three noises": lambda d: d["rows"][0]["x"].update(noise=[[1, 0.1], [2, 0.1], [3, 0.1]]),
    "one noise twice": lambda d: d["rows"][0]["x"].update(noise=[[1, 0.1], [1, 0.1]]),
    "negative noise index": lambda d: d["rows"][0]["x"].update(noise=[[-1, 0.1]]),
    "fractional noise index": lambda d: d["rows"][0]["x"].update(noise=[[1.5, 0.1]]),
    "noise without weight": lambda d: d["rows"][0]["x"].update(noise=[[1]]),
    "end of one number": lambda d: d.update(end=[1.0]),
    "end not a number": lambda d: d.update(end=[1.0, float("nan")]),
    "rows of another kind": lambda d: d.update(rows={"0": 1}),
    "a number for a name": lambda d: d.update(solver=3),
}


@pytest.mark.parametrize("what", SPOILERS)
def test_corrupt_plan_file_is_refused_by_name(what, tmp_path):
    path = tmp_path / "broken.json"
    PLANS["unipc"].save(path)
    spoil(path, SPOILERS[what])
    with pytest.raises(ValueError, match=r"broken\.json: not a valid fastdiff plan: ."):
        Plan.load(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "\xff\xfe", "cut"])
def test_truncated_or_foreign_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "broken.json"
    PLANS["unipc"].save(path)
    path.write_bytes(path.read_bytes()[:400] if text == "cut" else text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"broken\.json: not a valid fastdiff plan"):
        Plan.load(path)


def test_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "none.json")


def test_failed_save_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    PLANS["ddim"].save(path)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        PLANS["heun"].save(path)
    monkeypatch.undo()
    assert Plan.load(path) == PLANS["ddim"]
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_plan_knows_its_run():
    plan = fd.plan("heun", fd.Schedule.edm(), 5, grid="karras")
    assert (plan.nfe, plan.depth, plan.stochastic) == (9, 2, False)
    assert plan.start == (1.0, 80.0)
    assert plan.end == (1.0, 0.0)
    assert plan.init_scale == 80.0
    assert [row.accepts for row in plan.rows] == [False, True] * 4 + [True]
    assert plan.rows[0].base == BASE_UNCHANGED
    assert plan.point_after(0) == (plan.rows[1].alpha, plan.rows[1].sigma)
    assert plan.point_after(8) == plan.end
    assert fd.plan("ddpm", fd.Schedule.vp(), 3).stochastic
    assert fd.plan("ddim", fd.Schedule.vp(), 3).init_scale == pytest.approx(1.0, rel=1e-15)


def test_table_is_read_only_and_puts_each_noise_in_one_column():
    table = fd.plan("dpmpp_sde", fd.Schedule.vp(), 3).table
    with pytest.raises(ValueError, match="read-only"):
        table["p_x"] = 0
    np.testing.assert_array_equal(table["noise"][:4], [[1, 0], [1, 2], [3, 0], [3, 4]])


def test_plan_is_a_value():
    plan = PLANS["ddim"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.rows = ()
    with pytest.raises(ValueError, match="at least one row"):
        Plan((), (1.0, 0.0), "epsilon")
    row = Row(0.0, 1.0, 1.0, "data", 0.0, float("inf"), LinearUpdate())
    with pytest.raises(ValueError, match="row 0 holds a number that is not finite"):
        Plan((row,), (1.0, 0.0), "epsilon")


def test_a_row_forgets_outputs_that_later_rows_then_do_not_count():
    """Four outputs made, the second and third forgotten: the last row's H_1 is the first output."""
    rows = list(fd.plan("ddim", fd.Schedule.vp(), 4, grid="logsnr").rows)
    rows[1] = dataclasses.replace(rows[1], drop_history=(0,))
    rows[2] = dataclasses.replace(rows[2], drop_history=(0,))
    rows[3] = dataclasses.replace(rows[3], x=LinearUpdate(history=(0.0, 1.0)))
    plan = fd.Plan(tuple(rows), (1.0, 0.0), "epsilon")
    assert plan.depth == 2
    outputs = iter(torch.randn(4, 2, 3, dtype=torch.float64))
    seen = []

    def model(x, t):
        seen.append((x.clone(), next(outputs)))
        return seen[-1][1]

    end = fd.sample(model, plan, torch.randn(2, 3, dtype=torch.float64))
    x, m = seen[0]
    torch.testing.assert_close(end, rows[0].p_x * x + rows[0].p_m * m)


@pytest.mark.parametrize("drop_history", [(1,), (-1,), (0, 0)])
def test_only_outputs_that_are_there_are_forgotten(drop_history):
    rows = fd.plan("ddim", fd.Schedule.vp(), 1).rows
    with pytest.raises(ValueError, match="row 0 forgets"):
        fd.Plan((dataclasses.replace(rows[0], drop_history=drop_history),), (1.0, 0.0), "epsilon")


def test_rows_with_cheap_calls_are_counted_shown_and_saved(tmp_path):
    plan = fd.plan("dpmpp_2m", fd.Schedule.flow(), steps=10)
    some = plan.with_calls(["full", "cheap", "cheap"])
    assert [row.call for row in some.rows][:4] == ["full", "cheap", "cheap", "full"]
    assert some.nfe == 10
    assert some.cost(cheap=0.5) == 4 + 6 * 0.5
    assert plan.cost() == 10
    assert "10 evaluations, 6 of them cheap" in repr(some)
    assert some.explain().count("  cheap") == 6
    some.save(tmp_path / "plan.json")
    assert fd.Plan.load(tmp_path / "plan.json") == some
    assert "call" not in plan.to_dict()["rows"][0]  # files of other plans are as before
    assert some.with_calls(["full"]) == plan
    for calls in (["cheap", "full"], ["full", "free"], [], ["full"] * 11, "full"):
        with pytest.raises(ValueError, match=r"calls:|cheap call|has call"):
            plan.with_calls(calls)

"""The examples of posterior sampling run, their scores are what they say, and their numbers are better than none."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch

import fastdiff as fd
from fastdiff import demo

ROOT = Path(__file__).parents[1]
CORRECTIONS = ("Gaussian data", "moment", "moment with a prior", "gaussian", "proximal", "gradient")
pytest.importorskip("skimage")


@pytest.fixture(autouse=True)
def examples_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str):
    return importlib.import_module(f"examples.posterior.{name}")


def rows(printed: str) -> dict[str, list[str]]:
    """The cells of each table's lines by the method's name, the last table's where several have it."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    return {line[0].partition(",")[0]: line[1:] for line in cells}


@pytest.mark.parametrize(("name", "pictures"), [("images", 3), ("scans", 2), ("field", 2), ("series", 1)])
def test_every_example_prints_every_correction_and_draws_every_problem(name, pictures, tmp_path, capsys):
    module(name).main(["--quick", "--data", "1", "--members", "2", "--passes", "6", "--out", str(tmp_path)])
    printed = rows(capsys.readouterr().out)
    assert set(CORRECTIONS) <= printed.keys()
    assert all(math.isfinite(float(cell)) for method in CORRECTIONS[:5] for cell in printed[method])
    drawn = list(tmp_path.glob("*.png"))
    assert len(drawn) == pictures
    assert all(1000 < path.stat().st_size < 200_000 for path in drawn)


def members(problem, correction, count=8, steps=8, solver="dpm_solver_2m"):
    methods = module("methods")
    return methods.drawn("", methods.by(correction, 1, solver), problem, count, steps).x


@pytest.fixture(scope="module")
def photographs():
    return demo.network("colour")


@pytest.mark.parametrize("make", ["enlarge", "deblur", "fill"])
def test_the_mean_of_members_is_nearer_to_the_picture_than_any_member_and_than_the_ordinary_method(make, photographs):
    """Shipped weights and fixed seeds: nothing is left to chance."""
    problem = getattr(module("images"), make)(photographs, photographs.examples[::8])
    x, scores = members(problem, "moment", steps=12), module("scores")
    single = [scores.psnr(member, problem.truth, -1, 1) for member in x]
    assert scores.psnr(x.mean(0), problem.truth, -1, 1) > max(single) + 1
    assert scores.crps(x, problem.truth) < 0.8 * scores.crps(problem.start[None], problem.truth)
    assert module("table").misfit(problem, x) < 1.5


@pytest.mark.parametrize("make", ["resonance", "tomography"])
def test_scans_are_better_than_zero_filling_and_filtered_back_projection(make):
    scores, net = module("scores"), demo.network("mnist")
    problem = getattr(module("scans"), make)(net, net.examples[::8])
    x = members(problem, "moment", steps=12)
    assert scores.psnr(x.mean(0), problem.truth, -1, 1) > scores.psnr(problem.start, problem.truth, -1, 1) + 1
    assert scores.crps(x, problem.truth) < 0.5 * scores.crps(problem.start[None], problem.truth)


def test_a_window_of_times_tells_more_of_a_field_than_one():
    field, net, scores = module("field"), demo.network("terrain"), module("scores")
    problems = [field.assimilation(net, net.examples[::8], times) for times in (1, 6)]
    one, window = (scores.crps(members(p, "moment", steps=12), p.truth) for p in problems)
    assert window < 0.8 * one


def test_members_of_a_gap_are_a_better_forecast_than_a_line():
    problem = module("series").gaps(demo.network("series"), demo.network("series").examples[::8])
    x, scores = members(problem, "moment", steps=12), module("scores")
    where = problem.where
    assert scores.crps(x, problem.truth, where) < 0.75 * scores.crps(problem.start[None], problem.truth, where)


def test_crps_is_the_mean_error_less_half_the_mean_difference_of_members():
    x, truth = torch.randn(5, 3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    apart = sum((a - b).abs() for a in x for b in x) / (5 * 4)
    expected = ((x - truth).abs().mean(0) - apart / 2).mean()
    assert module("scores").crps(x, truth) == pytest.approx(float(expected))
    assert module("scores").crps(x[:1], truth) == pytest.approx(float((x[0] - truth).abs().mean()))


@pytest.mark.parametrize("count", [19, 39])
def test_of_exact_members_the_interval_has_nine_truths_of_ten(count):
    drawn = torch.randn(count + 1, 20_000)
    got = module("scores").coverage(drawn[1:], drawn[0])
    assert abs(got - 0.9) < 7 * math.sqrt(0.9 * 0.1 / 20_000)


def test_passes_are_evaluations_and_products_with_the_jacobian(photographs):
    methods, images = module("methods"), module("images")
    problem = images.enlarge(photographs, photographs.examples[:2])
    for correction, each in (("proximal", 1), ("gradient", 2), ("moment", 5)):
        assert methods.drawn("", methods.by(correction), problem, 1, 3).passes == 3 * each


@pytest.mark.parametrize("name", ["digits", "mnist", "terrain", "colour", "series"])
def test_denoised_is_what_a_run_predicts_at_that_noise(name):
    net = demo.network(name)
    model = module("problem").Network(net)
    plan = fd.plan("ddim", net.schedule, 4, prediction=net.prediction)
    before = None
    for step in fd.iter_sample(model, plan, torch.randn(2, *net.shape)):
        if before is not None:
            found = model.denoised(before / step.alpha, step.sigma / step.alpha)
            torch.testing.assert_close(found, step.x0, atol=2e-3, rtol=1e-3)
        before = step.x.clone()


@pytest.mark.parametrize(("package", "name"), [("azula", "peer_azula"), ("deepinv", "peer_deepinv")])
def test_peers_draw_finite_members(package, name, photographs):
    pytest.importorskip(package)
    images, methods = module("images"), module("methods")
    problem = images.fill(photographs, photographs.examples[:1])
    for tried in module(name).methods(problem).values():
        for draw in tried.values():
            drawn = methods.drawn("", draw, problem, 1, 10)
            assert drawn.x.isfinite().all()
            assert drawn.passes <= 10

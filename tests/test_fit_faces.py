"""Fitted plans in the command and in k-diffusion; the ones that ship."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_guided_pipelines as guided
import torch
from mixtures import SCHEDULE, model, noise, shorten_search

import fastdiff as fd
from fastdiff import demo
from fastdiff.__main__ import main
from fastdiff.commands import compare, pipeline
from fastdiff.commands.compare import converged, distances
from fastdiff.commands.fit import FIRST_SEED
from fastdiff.commands.sample import draw, labels_of
from fastdiff.fitting import convergence, references
from fastdiff.fitting.budget import Exhausted
from fastdiff.fitting.search import candidates
from fastdiff.fitting.target import FitTarget
from fastdiff.kdiffusion import get_sigmas_karras, plan_sampler

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return demo.load_model()


@pytest.fixture(scope="module")
def exact(network) -> torch.Tensor:
    seeds = list(range(24))
    assert seeds[-1] < FIRST_SEED  # not the noise that plans are fitted to
    return converged(network, seeds, labels_of(seeds, None))


@pytest.mark.parametrize("steps", demo.fitted_steps())
def test_shipped_plan_errs_less_than_half_of_the_catalogues_best_known_solvers(steps, network, exact):
    def error(plan: fd.Plan) -> float:
        seeds = list(range(len(exact)))
        return float(np.median(distances(draw(network, plan, seeds, labels_of(seeds, None)), exact)))

    rivals = [
        fd.plan(solver, demo.schedule(), steps, grid="quadratic", prediction=demo.PREDICTION)
        for solver in ("dpmpp_2m", "unipc", "ipndm", "gradient_estimation")
    ]
    plan = demo.fitted_plan(steps)
    assert plan.nfe == steps
    assert error(plan) < 0.5 * min(map(error, rivals))


def test_plans_ship_for_the_usual_numbers_of_steps():
    assert demo.fitted_steps() == [4, 5, 6, 8, 10]
    for steps in demo.fitted_steps():
        demo.fitted_plan(steps).check_schedule(demo.schedule())
    with pytest.raises(ValueError, match="steps: expected one of 4, 5, 6, 8, 10 for a fitted plan, got 7"):
        demo.fitted_plan(7)


def test_sample_uses_the_shipped_plan_where_no_other_is_asked_for():
    def sampled(*arguments: str) -> np.ndarray:
        assert main(["sample", "--seeds", "0-3", "--format", "npy", "--out", "x.npy", *arguments]) == 0
        return np.load("x.npy")

    fitted = sampled("--solver", "fitted", "--steps", "6")
    np.testing.assert_array_equal(sampled("--steps", "6"), fitted)
    plain = sampled("--steps", "6", "--solver", "adams_moulton", "--grid", "quadratic")
    np.testing.assert_array_equal(sampled("--steps", "6", "--grid", "quadratic"), plain)
    assert np.abs(plain - fitted).max() > 0.01
    default = fd.plan(None, demo.schedule(), 7, prediction=demo.PREDICTION)
    default.save("seven.json")
    np.testing.assert_array_equal(sampled("--steps", "7"), sampled("--plan", "seven.json"))
    fd.plan(None, demo.schedule(), 6, prediction=demo.PREDICTION, guided=True).save("guided.json")
    guided = sampled("--steps", "6", "--guidance", "2")
    np.testing.assert_array_equal(guided, sampled("--plan", "guided.json", "--guidance", "2"))


def test_fit_writes_a_plan_that_sample_runs(capsys, monkeypatch):
    monkeypatch.setattr(convergence, "CONTESTANTS", convergence.CONTESTANTS[:1])  # enough for this network
    shorten_search(monkeypatch)
    fit = ["fit", "--steps", "3", "--out", "three.json", "--samples", "8"]
    assert main(fit) == 0
    head, *trials, last = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "stage"
    errors = {
        line[:10].rstrip(): float(line[60:].split()[0]) for line in trials if line.startswith(("forward", "catalogue"))
    }
    assert errors["forward"] < errors["catalogue"]
    assert last.endswith("3 NFE -> three.json")
    assert main(["sample", "--plan", "three.json", "--seeds", "0-3"]) == 0
    assert "4 samples, 3 NFE" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in demo.networks() if name != "digits"])
def test_fit_serves_every_network_that_ships(name, capsys, monkeypatch):
    monkeypatch.setattr(FitTarget, "trace", exhausted)  # what comes before and after it is the same for all
    monkeypatch.setattr(references, "converged", four_steps)
    guidance = ["--guidance", "2"] if demo.network(name).num_classes else []
    fit = ["fit", "--network", name, "--steps", "2", "--out", "two.json", "--samples", "4", "--tolerance", "0.5"]
    assert main([*fit, *guidance]) == 0
    assert "cost  " in capsys.readouterr().out
    fd.Plan.load("two.json").check_schedule(demo.network(name).schedule)
    if not guidance:
        assert main([*fit, "--guidance", "2"]) == 2
        assert f"guidance: {name} has no labels to guide by" in capsys.readouterr().err


def exhausted(*arguments: object) -> None:
    raise Exhausted


def four_steps(target: FitTarget, schedule: fd.Schedule, prediction: str, *given: object) -> convergence.Converged:
    return convergence.Converged(fd.plan("unipc", schedule, 4, prediction=prediction), 0.0)


def test_fit_of_a_pipeline_in_a_folder_writes_a_plan_that_runs_in_it(capsys, monkeypatch):
    monkeypatch.setattr(FitTarget, "trace", exhausted)
    monkeypatch.setattr(references, "converged", four_steps)
    asked: list[tuple] = []

    def fit_pipeline(pipe: object, prompts: list[str], steps: int, **options: object) -> fd.Plan:
        asked.append((prompts, steps, {name: options[name] for name in ("samples", "guidance_scale", "batch")}))
        assert pipe.unet.dtype == torch.bfloat16
        return fd.fit_pipeline(pipe, prompts, steps, **options)

    monkeypatch.setattr(pipeline, "fit_pipeline", fit_pipeline)
    pipe, _ = guided.stable_diffusion()
    pipe.save_pretrained("pipe")
    Path("prompts.txt").write_text("a cat\n\n  hills \n")
    command = ["fit", "--pipeline", "pipe", "--prompts", "prompts.txt", "--guidance", "2", "--steps", "2"]
    options = ["--samples", "4", "--batch", "2", "--tolerance", "0.5", "--device", "cpu", "--dtype", "bfloat16"]
    assert main([*command, *options, "--out", "two.json"]) == 0
    assert asked == [(["a cat", "hills"], 2, {"samples": 4, "guidance_scale": 2.0, "batch": 2})]
    told = capsys.readouterr().out
    assert told.startswith("stage")
    assert "2 NFE -> two.json" in told
    pipe.scheduler = fd.PlanScheduler.from_config(pipe.scheduler.config, plan="two.json")
    assert len(pipe("a cat", num_inference_steps=2, output_type="latent").images) == 1


def test_fit_of_a_pipeline_names_the_option_that_is_wrong(capsys):
    Path("empty.txt").write_text("\n")
    Path("folder").mkdir()
    command = ["fit", "--steps", "2", "--out", "x.json"]
    for options, words in (
        (["--pipeline", "folder"], "--prompts: a pipeline needs a file with a text a line"),
        (["--pipeline", "folder", "--prompts", "none.txt"], "--prompts: none.txt: No such file"),
        (["--pipeline", "folder", "--prompts", "empty.txt"], "--prompts: empty.txt holds no text"),
        (["--prompts", "empty.txt"], "--prompts: no effect beside a network that ships"),
    ):
        assert main([*command, *options]) == 2
        assert words in capsys.readouterr().err
    Path("empty.txt").write_text("a cat")
    assert main([*command, "--pipeline", "folder", "--prompts", "empty.txt"]) == 2
    assert "--pipeline: expected a folder with model_index.json" in capsys.readouterr().err
    assert not Path("x.json").exists()


def test_compare_shows_fitted_plans_too(capsys, exact, monkeypatch):
    monkeypatch.setattr(compare, "converged", lambda model, seeds, *_, **__: exact[seeds])
    assert main(["sample", "--compare", "fitted:4", "ddim:4", "--seeds", "0-3"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert float(rows["fitted:4"][3]) < 0.5 * float(rows["ddim:4"][3])


def test_sample_refuses_a_plan_for_another_schedule_or_model(capsys):
    fd.plan("ddim", fd.Schedule.scaled_linear(), 4, prediction="v_prediction").save("other.json")
    assert main(["sample", "--plan", "other.json"]) == 2
    assert "schedule: the plan was made for one with" in capsys.readouterr().err
    fd.plan("ddim", demo.schedule(), 4).save("epsilon.json")
    assert main(["sample", "--plan", "epsilon.json"]) == 2
    assert "epsilon.json: a plan for epsilon, the shipped model predicts v_prediction" in capsys.readouterr().err
    Path("cut.json").write_text(json.dumps({"fastdiff_plan": 3}))
    assert main(["sample", "--plan", "cut.json"]) == 2
    assert "cut.json: not a valid fastdiff plan" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["cut.json", "epsilon.json", "other.json"]


def test_fit_says_in_one_line_that_the_budget_is_too_small(capsys):
    assert main(["fit", "--steps", "4", "--out", "x.json", "--evaluations", "50"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastdiff fit: budget: ")
    assert not Path("x.json").exists()


def test_diffusers_scheduler_runs_a_fitted_plan_and_is_saved_with_it(network):
    plan, start = demo.fitted_plan(5), fd.noise.randn((3, *demo.SHAPE), range(3))
    y = torch.arange(3)

    def run(scheduler: fd.PlanScheduler) -> torch.Tensor:
        scheduler.set_timesteps(5)
        x = start * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            m = network(scheduler.scale_model_input(x, t), t.expand(3), y)
            x = scheduler.step(m, t, x).prev_sample
        return x

    scheduler = fd.PlanScheduler(plan)
    drawn = fd.sample(network, plan, start, y=y)
    torch.testing.assert_close(run(scheduler), drawn)
    scheduler.save_pretrained("saved")
    loaded = fd.PlanScheduler.from_pretrained("saved")
    assert loaded.plan == plan
    torch.testing.assert_close(run(loaded), drawn)
    with pytest.raises(ValueError, match="num_inference_steps: the plan has 5, got 6"):
        scheduler.set_timesteps(6)


def test_kdiffusion_runs_a_plan():
    plan = candidates(SCHEDULE, "sample", 4)[7].plan
    sigmas = get_sigmas_karras(4, 0.01, 20.0)
    seen = []
    x = plan_sampler(plan)(model, noise(5) * 20.0, sigmas.double(), callback=seen.append, disable=True)
    torch.testing.assert_close(x, fd.sample(model, plan, noise(5)))
    assert [step["i"] for step in seen] == [0, 1, 2, 3]


def test_kdiffusion_refuses_a_plan_of_another_form_or_other_ends():
    with pytest.raises(ValueError, match="plan: expected a deterministic one with alpha = 1 and prediction 'sample'"):
        plan_sampler(demo.fitted_plan(4))
    plan = candidates(SCHEDULE, "sample", 4)[0].plan
    with pytest.raises(ValueError, match="sigmas: the plan runs from 20 to 0, got 10 to 0"):
        plan_sampler(plan)(model, noise(2), get_sigmas_karras(4, 0.01, 10.0))

"""fit_pipeline: a plan that is fitted to a pipeline runs in it; what goes to the fit and what to the pipeline."""

from __future__ import annotations

import importlib
import warnings

import pytest
import tiny_guided_pipelines as guided
import tiny_pipelines as tiny
import torch
from mixtures import shorten_search

import fastdiff as fd

SHORT = {"method": "full", "samples": 8, "batch": 32, "iterations": 1, "tolerance": 0.02}


def test_a_plan_fitted_to_a_pipeline_runs_in_it_and_comes_back_from_its_folder(tmp_path, monkeypatch):
    shorten_search(monkeypatch)
    pipe, call = guided.ltx()
    pipe.set_progress_bar_config(disable=True)
    trials = []
    plan = fd.fit_pipeline(pipe, None, 2, report=trials.append, **SHORT, **call)
    assert {"catalogue", "descent 1"} <= {trial.stage for trial in trials}  # gradients came through the pipeline
    plan.save_pretrained(tmp_path, model="ltx", guidance=call["guidance_scale"])

    d = fd.pipelines.denoiser(pipe, **call, num_inference_steps=2, generator=torch.Generator().manual_seed(3))
    plan.check_schedule(d.schedule)
    expected = fd.sample(d.model, plan, d.noise)
    found = fd.Plan.from_pretrained(tmp_path, model="ltx", steps=2, guidance=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of another shift
        pipe.scheduler = fd.PlanScheduler.from_config(pipe.scheduler.config, plan=found)
        drawn = pipe(**call, num_inference_steps=2, generator=torch.Generator().manual_seed(3), return_dict=False)[0]
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What `fastdiff.fit` is told."""
    found: dict = {}

    def fit(model: object, schedule: object, steps: int, noise: torch.Tensor, **options: object) -> str:
        found.update(model=model, schedule=schedule, steps=steps, noise=noise, **options)
        return "the plan"

    module = importlib.import_module("fastdiff.pipelines.fit")
    monkeypatch.setattr(module, "options_of", lambda _: OPTIONS)
    monkeypatch.setattr(module, "fit", fit)
    return found


OPTIONS = importlib.import_module("fastdiff.keywords").options_of(fd.fit)


def test_prompts_come_again_until_every_noise_has_one(told: dict):
    pipe, _ = guided.stable_diffusion()
    texts = ["a cat", "hills", "a red house"]
    made = fd.fit_pipeline(pipe, texts, 5, samples=40, guidance_scale=3.0, seed=7, folder="there", seconds=2.0)
    assert made == "the plan"
    assert told["which"].tolist() == [i % 3 for i in range(40)]
    assert told["noise"].shape == (40, 4, 8, 8)
    assert torch.equal(told["noise"], torch.randn(40, 4, 8, 8, generator=torch.Generator().manual_seed(7)))
    expected = {"steps": 5, "folder": "there", "seconds": 2.0, "seed": 7, "batch": 4, "save_memory": True}
    assert {name: told[name] for name in expected} == expected
    assert told["model_dtype"] == torch.float32
    alone = fd.pipelines.denoiser(pipe, prompt=texts[1], guidance_scale=3.0)
    x, t = torch.randn(1, 4, 8, 8), torch.full((1,), 500.0)
    with torch.no_grad():
        torch.testing.assert_close(told["model"](x, t, torch.tensor([1])), alone.model(x, t), rtol=1e-4, atol=1e-4)


def test_a_networks_cheap_calls_are_fitted_in_its_pipeline(told: dict):
    pipe, _ = guided.stable_diffusion()
    fd.fit_pipeline(pipe, ["a cat"], 5, guidance_scale=3.0, cached=fd.cached(pipe.unet), cheap=0.4)
    cached, which = told["model"], torch.zeros(2, dtype=torch.long)
    assert (told["cheap"], cached.network, cached.one_time) == (0.4, pipe.unet, True)
    alone = fd.pipelines.denoiser(pipe, prompt="a cat", guidance_scale=3.0)
    x, t = torch.randn(2, 4, 8, 8), torch.full((2,), 500.0)
    with torch.no_grad():
        m, state = cached.full(x, t, log_snr=0.0, which=which)
        torch.testing.assert_close(m, alone.model(x, t, which), rtol=1e-4, atol=1e-4)
        again = cached.cheap(x, t, state, log_snr=0.0, which=which)  # where the full one was, it says the same
    torch.testing.assert_close(again, m, rtol=1e-4, atol=1e-4)


def test_a_pipeline_in_half_precision_is_fitted_on_a_state_in_single(told: dict):
    pipe, _ = tiny.text_to_image(guided.vp_euler())
    pipe.register_modules(unet=tiny.copied(pipe.unet, torch.bfloat16))
    fd.fit_pipeline(pipe, None, 4, **{name: v.bfloat16() for name, v in tiny.prompt().items()})
    assert (told["noise"].dtype, told["model_dtype"]) == (torch.float32, torch.bfloat16)
    with torch.no_grad():
        m = told["model"](told["noise"][:2].bfloat16(), torch.full((2,), 500.0), told["which"][:2])
    assert m.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": "a cat"}, "prompts: expected a sequence of texts, got 'a cat'"),
        ({"prompts": []}, r"prompts: expected a sequence of texts, got \[\]"),
        ({"samples": 3}, "samples: expected a whole number >= 4, got 3"),
        ({"guidance": 7.5}, "guidance: the pipeline says it"),
        ({"prediction": "epsilon"}, "prediction: the pipeline says it"),
        ({"strength": 0.5}, "strength: begins from an image"),
    ],
)
def test_what_the_pipeline_says_itself_is_refused(changes: dict, words: str):
    pipe, _ = tiny.image_to_image(guided.vp_euler()) if "strength" in changes else guided.stable_diffusion()
    with pytest.raises(ValueError, match=words):
        fd.fit_pipeline(**{"pipe": pipe, "prompts": ["a cat"], "steps": 4, **changes})

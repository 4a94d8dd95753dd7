"""Whole workflows in ComfyUI's own executor, where it is on the path; those of examples/comfyui fit the nodes."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path

import comfy_app
import pytest
import torch
from peers import difference

from fastdiff.comfyui.nodes import NODE_CLASS_MAPPINGS, comfy_entrypoint

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/comfyui/*.json"))
WIDTHS = {"unet": 768, "mmdit": 32}  # of the conditions
RUN = 3e-5  # what two orders of float32 operations leave in six steps of these networks
BOTH = pytest.mark.parametrize("network", WIDTHS)
pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return comfy_app.App(tmp_path_factory.mktemp("models"))


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def workflow(network, sampler, sigmas, **others):
    """Noise to image, with everything by name: model, positive, negative, latent, sampler, sigmas, run."""
    prompts = {name: node("Prompt", width=WIDTHS[network], seed=i) for i, name in enumerate(("positive", "negative"))}
    links = {name: [name, 0] for name in ("model", "positive", "negative", "sampler", "sigmas")}
    return {
        "model": node("UNETLoader", unet_name=f"{network}.safetensors", weight_dtype="default"),
        "latent": node("EmptyLatentImage", width=32, height=32, batch_size=1),
        "sampler": sampler,
        "sigmas": sigmas,
        "run": node("SamplerCustom", add_noise=True, noise_seed=5, cfg=3.0, latent_image=["latent", 0], **links),
        "keep": node("Keep", value=["run", 0], name="image"),
        **prompts,
        **others,
    }


def stock(name, scheduler="karras"):
    basic = node("BasicScheduler", model=["model", 0], scheduler=scheduler, steps=6, denoise=1.0)
    return node("KSamplerSelect", sampler_name=name), basic


def ours(name, grid="karras", options="", seed_compat=False):
    grid = node("FastdiffScheduler", model=["model", 0], scheduler=grid, steps=6, denoise=1.0)
    return node("FastdiffSampler", sampler_name=name, options=options, seed_compat=seed_compat), grid


def image_of(app, prompt):
    return app.run(prompt)["image"]["samples"]


@BOTH
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"])
def test_our_nodes_give_the_image_of_the_stock_nodes(app, network, name):
    theirs = image_of(app, workflow(network, *stock(name)))
    sampler, grid = ours(name, seed_compat=True)
    # Our karras is of sigma / alpha, so it is ComfyUI's except for flows; a Brownian tree reads a sigma's last bits.
    grid = grid if (name, network) == ("euler", "unet") else stock(name)[1]
    assert difference(image_of(app, workflow(network, sampler, grid)), theirs) < RUN
    assert float(theirs.std()) > 0.1


def test_a_second_run_takes_everything_from_the_cache_and_a_changed_widget_only_what_hangs_on_it(app):
    prompt = workflow("mmdit", *ours("heun", "logsnr"))
    first = image_of(app, prompt)
    app.run(prompt)
    assert app.executed() == set()
    changed = copy.deepcopy(prompt)
    changed["sampler"]["inputs"]["sampler_name"] = "euler"
    second = image_of(app, changed)
    assert app.executed() == {"sampler", "run", "keep"}
    assert difference(second, first) > 1e-4


def test_a_wrong_option_is_refused_before_anything_runs(app):
    taken, _, _, errors = app.check(workflow("mmdit", *ours("euler", "time", "etta=2")))
    assert not taken
    assert "etta=2" in errors["sampler"]["errors"][0]["details"]


@BOTH
def test_an_accelerated_model_gives_the_image_and_the_given_one_stays(app, network):
    others = {
        "fast": node("FastdiffAccelerate", model=["model", 0]),
        "told": node("Keep", value=["fast", 1], name="told"),
    }
    prompt = workflow(network, *ours("dpmpp_2m", "logsnr"), **others)
    plain = app.run(prompt)
    fast = copy.deepcopy(prompt)
    fast["run"]["inputs"]["model"] = ["fast", 0]
    made = app.run(fast)
    assert difference(made["image"]["samples"], plain["image"]["samples"]) < RUN
    assert made["told"].startswith("fastdiff.accelerate changed\n")
    assert ("GroupNorm" in made["told"]) == (network == "unet")
    assert torch.equal(image_of(app, prompt), plain["image"]["samples"])


def test_the_newer_form_of_the_nodes_gives_the_same_images_refusals_and_cache(app, monkeypatch):
    guidance = node("FastdiffCFG", model=["model", 0], rescale=0.5, start_percent=0.0, end_percent=0.7)
    prompt = workflow("mmdit", *ours("euler_ancestral", "time", "eta=0.5"), guided=guidance)
    prompt["run"]["inputs"]["model"] = ["guided", 0]
    older = image_of(app, prompt)
    extension = asyncio.run(comfy_entrypoint())
    newer = {each.GET_SCHEMA().node_id: each for each in asyncio.run(extension.get_node_list())}
    monkeypatch.setattr(app.nodes, "NODE_CLASS_MAPPINGS", app.nodes.NODE_CLASS_MAPPINGS | newer)
    app.executor.reset()
    assert torch.equal(image_of(app, prompt), older)
    assert "guided" in app.executed()
    app.run(prompt)
    assert app.executed() == set()
    taken, _, _, errors = app.check(workflow("mmdit", *ours("euler", "time", "etta=2")))
    assert not taken
    assert "etta=2" in errors["sampler"]["errors"][0]["details"]
    app.executor.reset()


def fitting(**values):
    """A workflow that fits a plan and runs it."""
    links = {name: [name, 0] for name in ("model", "positive", "negative")}
    given = {"cfg": 3.0, "steps": 3, "denoise": 1.0, "seconds": 600.0, "seed": 1, "batch": 32, "save_as": "three"}
    fit = node("FastdiffFitPlan", latent_image=["latent", 0], **links, **(given | values))
    prompt = workflow("mmdit", None, None, fit=fit, told=node("Keep", value=["fit", 2], name="told"))
    del prompt["sampler"], prompt["sigmas"]
    prompt["run"]["inputs"] |= {"sampler": ["fit", 0], "sigmas": ["fit", 1]}
    return prompt


@pytest.fixture
def small_fits(monkeypatch):
    from fastdiff.fitting import convergence, course

    monkeypatch.setattr(convergence, "TOLERANCE", 0.3)
    monkeypatch.setattr(convergence, "CONTESTANTS", convergence.CONTESTANTS[:1])
    monkeypatch.setattr(course, "candidates", lambda *args, found=course.candidates: found(*args)[:10])


def test_a_fit_is_made_once_and_its_file_gives_the_same_image(app, small_fits):
    made = app.run(fitting())
    assert "catalogue" in made["told"]
    again = app.run(fitting())["image"]["samples"]
    assert app.executed() == set()
    assert torch.equal(again, made["image"]["samples"])
    loaded = {**fitting(), "fit": node("FastdiffLoadPlan", plan="three.json")}
    assert torch.equal(image_of(app, loaded), made["image"]["samples"])
    app.run(loaded)
    assert app.executed() == set()


def test_the_user_interrupts_a_fit(app, small_fits, monkeypatch):
    import comfy.utils

    shown = []

    def hook(value, total, preview, node_id=None):
        shown.append(value / total)
        if len(shown) == 20:
            app.nodes.interrupt_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    prompt = fitting(seed=2, save_as="never")
    _, _, outputs, _ = app.check(prompt)
    app.execute(prompt, outputs)
    assert app.executor.status_messages[-1][0] == "execution_interrupted"
    assert app.executor.status_messages[-1][1]["node_id"] == "fit"
    assert len(shown) == 20
    assert app.run(prompt)["image"]["samples"].isfinite().all()  # and it starts anew


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_names_nodes_and_inputs_that_there_are(comfy_modules, path):
    prompt = json.loads(path.read_text())
    ours = {name: step for name, step in prompt.items() if step["class_type"].startswith("Fastdiff")}
    assert ours
    for step in ours.values():
        groups = NODE_CLASS_MAPPINGS[step["class_type"]].INPUT_TYPES()
        known = {key: widget for group in groups.values() for key, widget in group.items()}
        assert set(groups["required"]) <= set(step["inputs"]) <= set(known)
        for key, value in step["inputs"].items():
            kind = known[key][0]
            if isinstance(value, list):
                assert (
                    NODE_CLASS_MAPPINGS.get(prompt[value[0]]["class_type"]) is None
                    or kind == (NODE_CLASS_MAPPINGS[prompt[value[0]]["class_type"]].RETURN_TYPES[value[1]])
                )
            else:
                assert value in kind if isinstance(kind, list) else kind in ("STRING", "INT", "FLOAT", "BOOLEAN")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_from_its_prompt_to_its_picture(app, small_fits, monkeypatch, path):
    """The checkpoint is a tiny one, without a text encoder and a decoder, which stand-ins replace."""
    monkeypatch.setattr(app.nodes, "NODE_CLASS_MAPPINGS", {**app.nodes.NODE_CLASS_MAPPINGS, **comfy_app.ENDS})
    prompt = json.loads(path.read_text())
    prompt["latent"]["inputs"] |= {"width": 32, "height": 32}
    if "plan" in prompt:
        prompt["plan"]["inputs"] |= {"steps": 2, "batch": 32}
    made = app.run(prompt)
    assert made["image"].isfinite().all()
    assert float(made["image"].std()) > 0.1
    assert ("fastdiff.accelerate changed" if path.stem == "text_to_image" else "model evaluations") in made["text"]

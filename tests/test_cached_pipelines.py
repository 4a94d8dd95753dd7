"""Pipelines of diffusers whose networks make the cheap calls that a plan asks for."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import diffusers
import pytest
import tiny_flow_pipelines as flow
import tiny_modular
import tiny_pipelines as tiny
import torch
from torch import Tensor, nn

import fastdiff as fd

CALLS = ["full", "cheap", "full", "cheap", "cheap"]  # two full calls before the first slope
SCALE = 3.0


def vp_plan() -> fd.Plan:
    return fd.plan("dpmpp_2m", fd.Schedule.scaled_linear(), len(CALLS)).with_calls(CALLS)


def flow_plan() -> fd.Plan:
    return fd.plan("dpmpp_2m", fd.Schedule.flow(3.0), len(CALLS), prediction="flow_prediction").with_calls(CALLS)


def stable_diffusion() -> tuple:
    pipe, call = tiny.text_to_image(diffusers.DDIMScheduler(**tiny.STABLE_DIFFUSION))
    pipe.scheduler = fd.PlanScheduler.from_config(pipe.scheduler.config, plan=vp_plan())
    pipe.unet = copy.deepcopy(pipe.unet)  # other tests have the same one
    return pipe, {**call, "guidance_scale": SCALE}, pipe.unet


def of_flow(build: Callable, **guidance: object) -> tuple:
    pipe, call = build(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), layers=3)
    pipe.scheduler = fd.PlanScheduler.from_config(pipe.scheduler.config, plan=flow_plan())
    pipe.transformer = copy.deepcopy(pipe.transformer)
    return pipe, {**call, **guidance}, pipe.transformer


def sd3() -> tuple:
    return of_flow(flow.sd3, guidance_scale=SCALE)


def flux() -> tuple:
    words = tiny.prompt(pooled=True)
    negative = {name: value for name, value in words.items() if name.startswith("negative")}
    return of_flow(tiny.flux, true_cfg_scale=SCALE, **negative)


def wan() -> tuple:
    negative = tiny.tensor(2, flow.WORDS, 16, seed=2)
    return of_flow(flow.wan, guidance_scale=SCALE, negative_prompt_embeds=negative)


def latents(pipe: object, call: dict[str, object], seed: int = 3) -> Tensor:
    """What is left after the last step."""
    return tiny.last_latents(pipe, {"num_inference_steps": len(CALLS), **call}, seed)


def inside(network: nn.Module) -> nn.Module:
    """A part of what cheap calls do not run."""
    name = fd.cached(network).splits[0].kept
    return next(part for part in network.get_submodule(name).modules() if isinstance(part, nn.Linear))


def evaluations(calls: list[dict[str, object]], per_row: int) -> tuple[Tensor, dict, dict]:
    """(the noise, the arguments of the unconditional and of the conditional evaluation)."""
    first = calls[:per_row]
    x = next(first[0][name] for name in ("sample", "hidden_states") if name in first[0])
    told = ("sample", "hidden_states", "timestep")
    words = [{k: v for k, v in call.items() if k not in told and v is not None} for call in first]
    if per_row == 2:  # the conditional one comes first
        return x, words[1], words[0]
    parts = [{k: v.chunk(2)[part] if isinstance(v, Tensor) else v for k, v in words[0].items()} for part in (0, 1)]
    return x.chunk(2)[0], *parts


@pytest.mark.parametrize(
    ("build", "per_row", "order", "unit"),
    [(stable_diffusion, 1, 0, 1.0), (sd3, 1, 1, 1000.0), (flux, 2, 0, 1.0), (wan, 2, 1, 1000.0)],
    ids=["unet", "sd3", "flux", "wan"],
)
def test_a_pipeline_that_is_followed_draws_what_sample_draws(build: Callable, per_row: int, order: int, unit: float):
    pipe, call, network = build()
    handle = fd.cached(network, order=order).follow(pipe)
    with tiny.calls_of(network) as calls, tiny.calls_of(inside(network)) as inner:
        drawn = latents(pipe, call)
    assert len(calls) == per_row * len(CALLS)
    assert len(inner) == per_row * CALLS.count("full")
    assert torch.equal(latents(pipe, call), drawn)  # another run begins anew
    handle.undo()

    def model(x: Tensor, t: Tensor, **words: object) -> Tensor:
        return network(x, timestep=unit * t, **words)[0]

    noise, uncond, words = evaluations(calls, per_row)
    expected = fd.sample(
        fd.cached(model, network=network, order=order), pipe.scheduler.plan, noise, guidance=SCALE, uncond=uncond,
        guidance_mode="batch" if per_row == 1 else "calls", **words,
    )  # fmt: skip
    assert (drawn - expected).abs().max() <= 1e-5 * drawn.abs().max()  # 3e-7 is seen


def images_of(pipe: object, call: dict[str, object]) -> tuple:
    """Image to image with the same networks, from the plan's second row on, a cheap one."""
    made = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    return made, {**call, "image": tiny.picture(), "strength": 0.8}


def test_a_run_that_begins_at_a_cheap_row_begins_with_a_full_call():
    pipe, call = images_of(*stable_diffusion()[:2])
    fd.cached(pipe.unet, order=1).follow(pipe)
    with tiny.calls_of(inside(pipe.unet)) as inner:
        drawn = latents(pipe, call)
    assert len(inner) == 2
    pipe.scheduler = fd.PlanScheduler(pipe.scheduler.plan.with_calls(["full", "full", *CALLS[2:]]))
    assert torch.equal(latents(pipe, call), drawn)
    pipe.scheduler = fd.PlanScheduler(pipe.scheduler.plan.with_calls(["full"]))
    assert not torch.allclose(latents(pipe, call), drawn)


def test_a_plan_with_cheap_rows_is_refused_where_its_network_does_not_follow():
    pipe, call, unet = stable_diffusion()
    refusal = pytest.raises(ValueError, match=r"cheap calls, .* fastdiff\.cached\(pipe\.unet\)\.follow\(pipe\)")
    with refusal:
        latents(pipe, call)
    other, _ = images_of(pipe, call)
    fd.cached(unet).follow(other)
    with refusal:
        latents(pipe, call)


def test_a_network_follows_several_pipelines_and_each_is_undone_alone():
    pipe, call, unet = stable_diffusion()
    other, image = images_of(pipe, call)
    kinds = [type(thing) for thing in (unet, pipe, other)]
    first, second = fd.cached(unet).follow(pipe), fd.cached(unet, order=1).follow(other)
    with pytest.raises(ValueError, match="this network follows it already"):
        fd.cached(unet).follow(pipe)
    drawn = latents(other, image)
    assert [type(thing).__name__ for thing in (unet, pipe, other)] == [kind.__name__ for kind in kinds]
    assert inspect.signature(type(pipe).__call__) == inspect.signature(kinds[1].__call__)
    first.undo()
    assert torch.equal(latents(other, image), drawn)
    second.undo()
    second.undo()
    assert [type(thing) for thing in (unet, pipe, other)] == kinds
    assert not any("follows" in name for thing in (unet, pipe, other) for name in vars(thing))


def test_two_networks_of_a_pipeline_follow_each_in_its_part_of_the_run():
    """Wan 2.2: another transformer where there is less noise."""
    pipe, call, network = wan()
    low = copy.deepcopy(network)
    pipe.register_modules(transformer_2=low)
    pipe.register_to_config(boundary_ratio=0.8)
    handles = [fd.cached(one).follow(pipe) for one in (network, low)]
    with ExitStack() as stack:
        calls = [stack.enter_context(tiny.calls_of(part)) for part in (network, inside(network), low, inside(low))]
        latents(pipe, call)
    counts = [len(one) for one in calls]
    assert counts == [6, 4, 4, 2]
    for handle in handles:
        handle.undo()
    with pytest.raises(ValueError, match="cheap calls"):
        latents(pipe, call)


def test_a_modular_pipeline_draws_what_the_other_does():
    own, call, network = sd3()
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=SCALE)
    pipe, other = tiny_modular.sd3(own.scheduler, guider)
    pipe.update_components(transformer=network)
    other = {**other, "height": 64, "width": 64, "num_inference_steps": len(CALLS), "output": "latents"}
    fd.cached(network).follow(own)
    expected = latents(own, call)
    pipe.set_progress_bar_config(disable=True)
    fd.cached(network).follow(pipe)
    drawn = pipe(**other, generator=torch.Generator().manual_seed(3))
    assert (drawn - expected).abs().max() <= 1e-5 * drawn.abs().max()


def test_calls_of_the_network_from_elsewhere_are_plain_and_copies_do_not_follow():
    pipe, call, unet = stable_diffusion()
    x, words = torch.randn(2, 4, 8, 8), {"encoder_hidden_states": call["prompt_embeds"]}
    plain = unet(x, 500, **words).sample
    kind = type(unet)
    fd.cached(unet).follow(pipe)
    drawn = latents(pipe, call)
    with tiny.calls_of(inside(unet)) as inner:
        for _ in range(2):
            assert torch.equal(unet(x, 500, **words).sample, plain)
    assert len(inner) == 2
    twins = copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))
    assert {type(twin) for twin in twins} == {kind}
    assert all(torch.equal(twin(x, 500, **words).sample, plain) for twin in twins)
    pipe.scheduler = diffusers.DDIMScheduler(**tiny.STABLE_DIFFUSION)
    with tiny.calls_of(inside(unet)) as inner:
        assert not torch.allclose(latents(pipe, call), drawn)
    assert len(inner) == len(CALLS)


def test_threads_and_compiled_networks_follow():
    pipe, call, unet = stable_diffusion()
    fd.cached(unet).follow(pipe)
    expected = [latents(pipe, call, seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as threads:
        drawn = [*threads.map(lambda seed: latents(pipe, call, seed), (1, 2))]
    assert all(map(torch.equal, drawn, expected))
    compiled, call, unet = stable_diffusion()
    compiled.unet = torch.compile(unet, backend="eager")
    handle = fd.cached(unet).follow(compiled)
    assert torch.equal(latents(compiled, call, 1), expected[0])
    handle.undo()
    assert type(compiled.unet) is type(torch.compile(unet, backend="eager"))


def test_what_cannot_follow_is_refused_in_plain_words():
    pipe, _, unet = stable_diffusion()
    with pytest.raises(ValueError, match="this UNet2DConditionModel is none of its components"):
        fd.cached(copy.deepcopy(unet)).follow(pipe)
    with pytest.raises(TypeError, match="expected a diffusers pipeline with a scheduler, got UNet2DConditionModel"):
        fd.cached(unet).follow(unet)

"""`fastdiff.hosts.monai`: in the loop of MONAI's inferers, on stand-ins with its protocol and on MONAI where it is."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import monai_stand_ins
import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd

SPREAD = 0.5
SHAPES = ((2, 1, 6, 6), (2, 3, 4, 4, 4))


@pytest.fixture(params=["stand-ins", pytest.param("monai", marks=pytest.mark.hosts)])
def monai(request, monkeypatch):
    """theirs: MONAI's schedulers and inferer. ours: fastdiff's."""
    if request.param == "stand-ins":
        for name, module in monai_stand_ins.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    else:
        pytest.importorskip("monai")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("fastdiff.hosts.monai")}
    theirs, inferers = (importlib.import_module(f"monai.{name}") for name in ("networks.schedulers", "inferers"))
    yield SimpleNamespace(
        theirs=theirs, ours=importlib.import_module("fastdiff.hosts.monai"), inferer=inferers.DiffusionInferer
    )
    for name in [name for name in sys.modules if name.startswith("fastdiff.hosts.monai")]:
        del sys.modules[name]
    sys.modules.update(kept)


class Exact(torch.nn.Module):
    """The noise, or x0 - eps, of data N(0, SPREAD^2): its ODE is x / sqrt(alpha^2 SPREAD^2 + sigma^2) = const."""

    def __init__(self, schedule: fd.Schedule, unit: float = 1.0) -> None:
        super().__init__()
        self.schedule, self.unit, self.told = schedule, unit, []

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        self.told.append(float(timesteps))
        p = self.schedule.at(float(timesteps) / self.unit)
        variance = p.alpha**2 * SPREAD**2 + p.sigma**2
        eps = float(p.sigma / variance) * x
        return eps if self.unit == 1 else float(p.alpha * SPREAD**2 / variance) * x - eps


def linear(monai, **options):
    """A scheduler of MONAI's without bounds, and its network."""
    trained = monai.theirs.DDIMScheduler(clip_sample=False, **options)
    return trained, Exact(fd.Schedule.from_alphas_cumprod(trained.alphas_cumprod.double().numpy()))


def error(x: Tensor, noise: Tensor) -> float:
    return float((x / (SPREAD * noise) - 1).abs().max())


def draw(monai, scheduler, network, noise, steps=None, **options):
    if steps is not None:
        scheduler.set_timesteps(steps)
    return monai.inferer(scheduler).sample(noise, network, verbose=False, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flow", [False, True])
def test_the_default_plan_is_nearer_than_monais_own_scheduler(monai, shape, flow):
    own, network = linear(monai)
    if flow:
        own, network = monai.theirs.RFlowScheduler(), Exact(fd.Schedule.flow(), 1000.0)
    noise = torch.randn(shape)
    found = {}
    for steps in (4, 8):
        found[steps] = error(draw(monai, monai.ours.PlanScheduler(own), network, noise, steps), noise)
        assert len(network.told) == steps
        assert found[steps] < 0.5 * error(draw(monai, own, network, noise, steps), noise)
        network.told.clear()
    assert found[8] < found[4]


def test_it_draws_what_sample_draws(monai):
    own, network = linear(monai)
    noise = torch.randn(2, 1, 6, 6)
    plan = fd.plan("unipc", network.schedule, 6, prediction="epsilon")
    for scheduler in (monai.ours.PlanScheduler(own, "unipc"), monai.ours.PlanScheduler(own, plan)):
        x = draw(monai, scheduler, network, noise, 6)
        expected = fd.sample(lambda x, t: network(x, t[:1]), plan, noise / plan.init_scale)
        torch.testing.assert_close(x, expected)
        assert scheduler.num_inference_steps == plan.nfe == len(scheduler.timesteps)


def test_a_second_run_and_one_after_an_interruption_begin_anew(monai):
    own, network = linear(monai)
    scheduler = monai.ours.PlanScheduler(own, "dpmpp_2m")
    noise = torch.randn(2, 1, 6, 6)
    first = draw(monai, scheduler, network, noise, 5)
    scheduler.step(torch.randn_like(noise), scheduler.timesteps[0], noise)
    assert torch.equal(draw(monai, scheduler, network, noise), first)
    with pytest.raises(ValueError, match=r"^timestep: expected .*, the run's next"):
        scheduler.step(noise, 17.5, noise)


def test_bounds_of_the_trained_scheduler_hold(monai):
    own = monai.theirs.DDIMScheduler(clip_sample=True, clip_sample_min=-0.25, clip_sample_max=0.125)
    network = Exact(fd.Schedule.from_alphas_cumprod(own.alphas_cumprod.double().numpy()))
    for solver in (None, "unipc", "ddim"):
        scheduler = monai.ours.PlanScheduler(own, solver)
        scheduler.set_timesteps(5)
        x = torch.randn(2, 1, 6, 6)
        for t in scheduler.timesteps:
            x, x0 = scheduler.step(network(x, t), t, x)
            assert float(x0.min()) >= -0.25
            assert float(x0.max()) <= 0.125
    assert float(x.max()) <= 0.125 + 1e-6


def test_what_the_host_changes_between_steps_counts(monai):
    own, network = linear(monai)
    scheduler = monai.ours.PlanScheduler(own, "ddim")
    scheduler.set_timesteps(4)
    x = torch.randn(1, 1, 4, 4)
    for t in scheduler.timesteps:
        x, _ = scheduler.step(network(x, t), t, x)
        x *= 0
    assert float(x.abs().max()) == 0


def test_a_generator_seeds_plans_that_draw_noise(monai):
    own, network = linear(monai)
    scheduler, noise = monai.ours.PlanScheduler(own, "euler_ancestral"), torch.randn(2, 1, 6, 6)
    scheduler.set_timesteps(3)
    drawn = []
    for seed in (1, 1, 2):
        x, generator = noise, torch.Generator().manual_seed(seed)
        for t in scheduler.timesteps:
            x, _ = scheduler.step(network(x, t), t, x, generator=generator)
        drawn.append(x)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_monais_names_give_monais_numbers(monai, name, clip):
    own, ours = getattr(monai.theirs, name), getattr(monai.ours, name)
    for steps in (7, 1000):  # with all training steps it is so without compat too
        pair = own(clip_sample=clip), ours(clip_sample=clip, compat=steps < 1000)
        for scheduler in pair:
            scheduler.set_timesteps(steps)
        assert torch.equal(pair[0].timesteps, pair[1].timesteps)
        m, x = torch.randn(2, 1, 5, 5), torch.randn(2, 1, 5, 5)
        given = x.clone()
        for t in pair[0].timesteps[[0, steps // 2, -1]]:
            a, b = (scheduler.step(m, t, x, generator=torch.Generator().manual_seed(3)) for scheduler in pair)
            torch.testing.assert_close(b[0], a[0], rtol=2e-5, atol=2e-5)
            torch.testing.assert_close(b[1], a[1], rtol=2e-5, atol=2e-5)
            assert torch.equal(x, given)


def test_rflow_gives_monais_numbers(monai):
    network, noise = Exact(fd.Schedule.flow(), 1000.0), torch.randn(2, 1, 6, 6)
    a, b = (draw(monai, package.RFlowScheduler(), network, noise, 7) for package in (monai.theirs, monai.ours))
    torch.testing.assert_close(b, a)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_a_step_ends_where_the_next_begins(monai, name):
    """Of a network that tells the noise of one known x0, every step is exact: x stays alpha x0 + sigma eps."""
    scheduler = getattr(monai.ours, name)(clip_sample=False)
    scheduler.set_timesteps(7)
    x0 = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    kept = scheduler.alphas_cumprod.double()
    x, count = torch.randn(512, 1, 4, 4, dtype=torch.float64), 512 * 16
    x = kept[999].sqrt() * x0 + (1 - kept[999]).sqrt() * x
    for t, end in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        eps = (x - kept[t].sqrt() * x0) / (1 - kept[t]).sqrt()
        x, _ = scheduler.step(eps, t, x)
        noise = x - (x0 if end is None else kept[end].sqrt() * x0)
        variance = 0.0 if end is None else float(1 - kept[end])
        assert float(noise.square().mean()) == pytest.approx(variance, rel=7 * (2 / count) ** 0.5, abs=1e-7)


@pytest.mark.parametrize("skip", [False, True])
def test_pndm_is_the_published_method(monai, skip):
    scheduler = monai.ours.PNDMScheduler(skip_prk_steps=skip)
    network = Exact(fd.Schedule.from_alphas_cumprod(scheduler.alphas_cumprod.double().numpy()))
    noise = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    few, more = (error(draw(monai, scheduler, network, noise, steps), noise) for steps in (10, 20))
    assert more < 0.5 * few < 0.1
    assert len(scheduler.timesteps) == 20 + (1 if skip else 9)


def test_noise_is_added_at_fractions_of_times_too(monai):
    own, _ = linear(monai)
    scheduler, x0, noise = monai.ours.PlanScheduler(own), torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    whole = torch.tensor([3, 700])
    torch.testing.assert_close(scheduler.add_noise(x0, noise, whole), own.add_noise(x0, noise, whole))
    torch.testing.assert_close(scheduler.add_noise(x0, noise, whole.float()), own.add_noise(x0, noise, whole))
    flow = monai.theirs.RFlowScheduler()
    torch.testing.assert_close(
        monai.ours.PlanScheduler(flow).add_noise(x0, noise, whole), flow.add_noise(x0, noise, whole)
    )


def test_a_flows_times_are_shifted_with_the_image(monai):
    own = monai.theirs.RFlowScheduler(use_timestep_transform=True, base_img_size_numel=16**3, spatial_dim=3)
    scheduler = monai.ours.PlanScheduler(own, "euler")
    scheduler.set_timesteps(4, input_img_size_numel=32**3)
    expected = 1000 * fd.Schedule.flow(shift=2.0).shift_time(np.array([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(scheduler.timesteps.double(), torch.tensor(expected), rtol=1e-6, atol=1e-4)
    with pytest.raises(ValueError, match=r"^input_img_size_numel: "):
        scheduler.set_timesteps(4)


def test_bad_arguments_are_named(monai):
    own, network = linear(monai)
    plan = fd.plan("ddim", network.schedule, 4, prediction="v_prediction")
    with pytest.raises(TypeError, match=r"^scheduler: "):
        monai.ours.PlanScheduler("ddim")
    with pytest.raises(ValueError, match=r"^solver: expected one of epsilon"):
        monai.ours.PlanScheduler(own, plan)
    with pytest.raises(ValueError, match=r"^grid: "):
        monai.ours.PlanScheduler(own, plan, grid="karras")
    with pytest.raises(ValueError, match=r"^num_inference_steps: "):
        monai.ours.PlanScheduler(own, fd.plan("ddim", network.schedule, 4)).set_timesteps(5)
    with pytest.raises(ValueError, match=r"^timestep: expected set_timesteps"):
        monai.ours.PlanScheduler(own).step(torch.zeros(1, 1, 2, 2), 3, torch.zeros(1, 1, 2, 2))

"""`step` is called as diffusers' own: its signature, arguments by place and by name, and what it refuses."""

from __future__ import annotations

import inspect

import diffusers
import pytest
import torch
from scheduler_loops import QUICK, loop
from scheduler_protocols import DIRECT, OWN

from fastdiff import schedulers

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
BOUNDS = ("clip_sample", "thresholding")
NAMES = [n for n in schedulers.__all__ if hasattr(diffusers, n) and n not in ("SchedulerMixin", *DIRECT)]
each_class = pytest.mark.parametrize("name", NAMES)
each_of_images = pytest.mark.parametrize("name", [name for name in NAMES if name not in OWN])
WITHOUT_BOUNDS = [
    *((f"{name}DiscreteScheduler", bound) for name in ("Euler", "KDPM2", "LMS") for bound in BOUNDS),
    ("HeunDiscreteScheduler", "thresholding"),
]


def begun(name: str) -> tuple[object, torch.Tensor, torch.Tensor]:
    """(a scheduler whose first step is next, its time, a sample)."""
    scheduler = getattr(schedulers, name)(**QUICK.get(name, {}))
    scheduler.set_timesteps(5)
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, scheduler.timesteps[0])
    return scheduler, scheduler.timesteps[0], x


@each_class
def test_step_has_the_parameters_of_diffusers_step_and_a_generator(name):
    ours, theirs = (inspect.signature(getattr(library, name).step).parameters for library in (schedulers, diffusers))
    assert list(ours) == [*theirs, *({"generator"} - {*theirs})]
    assert all(ours[k].default == p.default for k, p in theirs.items())


@each_of_images
def test_arguments_by_place_are_those_by_name(name):
    defaults = {k: p.default for k, p in inspect.signature(getattr(schedulers, name).step).parameters.items()}
    given = dict(list(defaults.items())[4:]) | {"return_dict": False, "generator": torch.Generator()}
    results = []
    for by_place in (True, False):
        scheduler, t, x = begun(name)
        given["generator"].manual_seed(3)
        torch.manual_seed(3)
        step = scheduler.step
        results.append(step(0.3 * x, t, x, *given.values()) if by_place else step(0.3 * x, t, x, **given))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@each_of_images
def test_an_argument_that_step_does_not_have_is_named(name):
    scheduler, t, x = begun(name)
    with pytest.raises(TypeError, match=rf"{name}.step\(\) got an unexpected keyword argument 'etta'"):
        scheduler.step(x, t, x, etta=1.0)
    with pytest.raises(TypeError, match=rf"{name}.step\(\) .*return_dict"):
        scheduler.step(x, t, x, *[None] * (len(inspect.signature(scheduler.step).parameters) - 3), return_dict=False)


@pytest.mark.parametrize(("name", "option"), WITHOUT_BOUNDS)
def test_bounds_that_a_class_does_not_have_change_nothing(name, option):
    """The configuration of another class may ask for them, and stays in the scheduler's own."""
    config = diffusers.DDIMScheduler(**{"clip_sample": False, option: True}).config
    results = []
    for library in (schedulers, diffusers):
        scheduler = getattr(library, name).from_config(config)
        scheduler.set_timesteps(6)
        results.append(loop(scheduler)[0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)

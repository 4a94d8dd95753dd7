"""Schedulers whose steps are told more than a time: diffusers' numbers, in every way that pipelines run them."""

from __future__ import annotations

import copy
import inspect
import pickle

import diffusers.schedulers
import pytest
import torch
from direct_loops import LOOPS, image, noise_of, tensor, unclip
from host_reads import HostReads
from in_double import in_double
from scheduler_loops import model, start
from scheduler_protocols import DIRECT

from fastdiff import schedulers

NO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
OPTIONS = {
    "CogVideoXDPMScheduler": [{}, NO_SIGNAL, {"set_alpha_to_one": False, "prediction_type": "sample"}],
    "DDPMWuerstchenScheduler": [{}, {"scaler": 2.0}, {"scaler": 0.5, "s": 0.02}],
    "KarrasVeScheduler": [{}, {"s_churn": 0.0, "sigma_max": 30.0}],
    "RePaintScheduler": [
        {"num_train_timesteps": 60, **more}
        for more in ({}, {"eta": 1.0, "beta_schedule": "sigmoid"}, {"eta": 0.4, "clip_sample": False})
    ],
    "ScoreSdeVeScheduler": [{}, {"snr": 0.3, "sigma_max": 50.0, "sampling_eps": 1e-3}],
    "ScoreSdeVpScheduler": [{}, {"beta_max": 10}],
    "UnCLIPScheduler": [
        {}, {"variance_type": "learned_range"}, {"prediction_type": "sample", "clip_sample": False},
        {"clip_sample_range": 3.0},
    ],
}  # fmt: skip
JUMPS = {"RePaintScheduler": (3, 2)}
STEP = {"ScoreSdeVeScheduler": "step_pred", "ScoreSdeVpScheduler": "step_pred"}
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
each_class = pytest.mark.parametrize("name", DIRECT)


def pair(name: str, **options: object) -> tuple[object, object]:
    return tuple(getattr(library, name)(**options) for library in (schedulers, diffusers.schedulers))


def run(name: str, scheduler: object, n: int, dtype: torch.dtype = torch.float32, **how: object) -> tuple:
    return image(name, scheduler, n, dtype, JUMPS.get(name, ()), **how)


def gap(found: tuple, exact: tuple) -> float:
    """Of the image and x0, relative to the largest value of the run."""
    return (
        max(float((a.double() - b.double()).abs().max()) for a, b in zip(found[:2], exact[:2], strict=True)) / exact[2]
    )


@pytest.mark.parametrize(("name", "options"), [(name, o) for name in DIRECT for o in OPTIONS[name]], ids=str)
def test_every_option_in_float64(name, options):
    """And in float32 as near to that as 1e-5, or about as diffusers' float32 is."""
    with in_double():
        ours, theirs = pair(name, **options)
        for n in (2, 3, 11):
            for begin in (0, 1):
                exact = run(name, theirs, n, torch.float64, begin=begin)
                assert gap(run(name, ours, n, torch.float64, begin=begin), exact) < 1e-10, (n, begin)
                assert ours.timesteps.equal(theirs.timesteps)
                error = gap(run(name, ours, n, begin=begin), exact)
                assert error < 1e-5 or error < 6 * gap(run(name, theirs, n, begin=begin), exact), (n, begin)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_class
def test_in_the_models_own_dtype(name, dtype):
    made = [run(name, scheduler, 3, dtype) for scheduler in pair(name)]
    assert [one.dtype for one in made[0][:2]] == [one.dtype for one in made[1][:2]]
    assert gap(*made) < 100 * DTYPES[dtype] if dtype is torch.float32 else gap(*made) < DTYPES[dtype]


@each_class
def test_interleaved_runs_are_serial_runs(name):
    shared, runs = getattr(schedulers, name)(), []
    for n, seed in ((4, 1), (6, 2)):
        shared.set_timesteps(n, *JUMPS.get(name, ()))
        runs.append(LOOPS[name](shared, start(shared), seed))
    ends: list = [None, None]
    for _ in range(40):
        for k in (0, 1):
            ends[k] = next(runs[k], ends[k])
    for k, (n, seed) in enumerate(((4, 1), (6, 2))):
        alone = getattr(schedulers, name)()
        alone.set_timesteps(n, *JUMPS.get(name, ()))
        *_, last = LOOPS[name](alone, start(alone), seed)
        assert torch.equal(ends[k][0], last[0])


@each_class
def test_copies_and_saved_ones_go_on(name, tmp_path):
    scheduler = getattr(schedulers, name)(**OPTIONS[name][-1])
    first = run(name, scheduler, 4)
    scheduler.save_pretrained(tmp_path)
    again = getattr(schedulers, name).from_pretrained(tmp_path)
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), again, scheduler):
        assert isinstance(other, getattr(diffusers.schedulers, name))
        assert torch.equal(run(name, other, 4)[0], first[0])
    back = getattr(diffusers.schedulers, name).from_config(scheduler.config)
    assert {**back.config} == {k: v for k, v in scheduler.config.items() if k in back.config}


@each_class
def test_steps_read_no_value(name):
    """Not of elements of the run's own times and levels, nor of what its own calls return."""
    scheduler = getattr(schedulers, name)()
    scheduler.set_timesteps(5, *JUMPS.get(name, ()))
    steps, watched = LOOPS[name](scheduler, start(scheduler), 3), []

    def watch(method):
        def call(*args, **kwargs):
            with HostReads() as reads:
                made = method(*args, **kwargs)
            watched.append(reads.seen)
            return made

        return call

    for method in ("step", "step_pred", "step_correct", "add_noise_to_input"):
        if hasattr(scheduler, method):
            setattr(scheduler, method, watch(getattr(scheduler, method)))
    list(steps)
    assert len(watched) >= 5
    assert not any(watched)


@each_class
def test_a_compiled_step_is_one_graph_and_the_same_numbers(name):
    """Noise is torch's own there."""
    scheduler = getattr(schedulers, name)()
    method = STEP.get(name, "step")
    raw = getattr(scheduler, method)
    compiled = torch.compile(lambda *args: raw(*args), fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    images = []
    for call in (compiled, raw):
        torch.manual_seed(0)
        images.append(by_hand(name, scheduler, call))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # the first step of CogVideoX has no old x0
    assert torch.equal(*images)


def by_hand(name: str, scheduler: object, call: object) -> torch.Tensor:
    """Six steps without generators."""
    scheduler.set_timesteps(7, *JUMPS.get(name, ()))
    if name == "ScoreSdeVeScheduler":
        scheduler.set_sigmas(7)
    x, old, times = start(scheduler), None, scheduler.timesteps
    for i, t in enumerate(times[:6]):
        m = model(x, t)
        more = {
            "CogVideoXDPMScheduler": (m, old, t, times[i - 1] if i else None, x),
            "DDPMWuerstchenScheduler": (m, t.expand(len(x)), x),
            "RePaintScheduler": (m, t, x, x[:1], x[:1, :1].sigmoid()),
            "UnCLIPScheduler": (m, t, x, times[i + 1]),
            "ScoreSdeVpScheduler": (m, x, t),
        }.get(name, (m, t, x))
        if name == "KarrasVeScheduler":
            more = (m, scheduler.schedule[t], scheduler.schedule[t - 1], x)
        made = call(*more)
        made = made if isinstance(made, tuple) else made.to_tuple()
        x, old = made[0], made[1] if len(made) > 1 else None
    return x


@each_class
def test_signatures_are_diffusers_own(name):
    ours, theirs = (getattr(library, name) for library in (schedulers, diffusers.schedulers))
    for method in ("step", "step_pred", "step_correct", "undo_step", "add_noise_to_input", "set_timesteps"):
        if method != "set_timesteps" or "set_timesteps" in vars(ours):
            both = [inspect.signature(getattr(c, method)).parameters for c in (ours, theirs) if hasattr(c, method)]
            assert not both or [(p.name, p.default) for p in both[0].values()] == [
                (p.name, p.default) for p in both[1].values()
            ]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("CogVideoXDPMScheduler", "prediction_type", "v_prediction"),
        ("KarrasVeScheduler", "s_noise", 1.5),
        ("RePaintScheduler", "clip_sample", False),
        ("ScoreSdeVeScheduler", "snr", 0.3),
        ("ScoreSdeVpScheduler", "beta_max", 5.0),
        ("UnCLIPScheduler", "clip_sample_range", 0.5),
    ],
)
def test_an_option_counts_from_the_step_on_before_which_it_is_set(name, key, value):
    ends = []
    for scheduler in pair(name):
        scheduler.set_timesteps(5, *JUMPS.get(name, ()))
        largest = 0.0
        for i, (x, _) in enumerate(LOOPS[name](scheduler, start(scheduler), 3)):
            largest = max(largest, float(x.abs().max()))
            if i == 2:
                setattr(scheduler.config, key, value)
        ends.append((x, x, largest))
    assert gap(*ends) < 1e-3


def test_levels_edited_in_place_are_those_of_the_next_step():
    for name, levels in (("KarrasVeScheduler", "schedule"), ("ScoreSdeVeScheduler", "discrete_sigmas")):
        ends = []
        for scheduler in pair(name):
            scheduler.set_timesteps(6)
            steps = LOOPS[name](scheduler, start(scheduler), 3)
            next(steps)
            getattr(scheduler, levels)[:4] *= 0.9
            next(steps)
            x, _ = next(steps)
            ends.append((x, x, float(x.abs().max())))
        assert gap(*ends) < 1e-4, name


def test_unclip_steps_to_the_time_before_where_it_is_not_told_another():
    found = []
    for scheduler in pair("UnCLIPScheduler"):
        scheduler.set_timesteps(6)
        x = start(scheduler)
        *_, (x, _) = unclip(scheduler, x, 3, ends=False)
        found.append((x, x, 1.0))
    assert gap(*found) < 1e-3


def test_times_of_the_callers_own():
    """CogVideoX's steps end at the next of them, Wuerstchen's and UnCLIP's are diffusers' own."""
    scheduler = schedulers.CogVideoXDPMScheduler()
    scheduler.set_timesteps(timesteps=[900, 600, 200])
    same = schedulers.CogVideoXDPMScheduler(trained_betas=None)
    x, ends = start(scheduler), []
    for one, times in ((scheduler, [900, 600]), (same, [900])):
        if one is same:
            same.set_timesteps(1)
            same.config.num_train_timesteps = 300  # T // n is then the way from 900 to 600
        ends.append(one.step(model(x, 900.0), None, times[0], None, x, generator=noise_of(1))[0])
    assert torch.equal(*ends)
    found = []
    for scheduler in pair("DDPMWuerstchenScheduler"):
        scheduler.set_timesteps(timesteps=[1.0, 0.7, 0.3, 0.0])
        *_, (x, _) = LOOPS["DDPMWuerstchenScheduler"](scheduler, start(scheduler), 3)
        found.append((x, x, 1.0))
    assert gap(*found) < 1e-4


def test_a_known_picture_is_kept_and_gradients_flow_through_the_rest():
    scheduler = schedulers.RePaintScheduler()
    scheduler.set_timesteps(4, 2, 2)
    x, picture, mask = start(scheduler).requires_grad_(), tensor(5, torch.float32), torch.zeros(2, 1, 6, 5)
    mask[..., :3] = 1.0
    t = scheduler.timesteps[-1]  # whose step ends on data
    made = scheduler.step(0.1 * x, t, x, picture, mask, noise_of(1)).prev_sample
    assert torch.equal(made[..., :3], picture[..., :3])
    (gradient,) = torch.autograd.grad(made.sum(), x)
    assert (gradient[..., :3] == 0).all()
    assert (gradient[..., 3:] != 0).any()


def test_what_cannot_be_is_refused():
    x = torch.zeros(1, 2, 4, 4)
    for name in ("CogVideoXDPMScheduler", "RePaintScheduler"):
        with pytest.raises(ValueError, match="num_inference_steps"):
            getattr(schedulers, name)().step(*[x, None, 0, None, x] if name.startswith("Cog") else [x, 0, x, x, x])
    for name in ("ScoreSdeVeScheduler", "ScoreSdeVpScheduler"):
        scheduler = getattr(schedulers, name)()
        scheduler.timesteps = None
        with pytest.raises(ValueError, match="set_timesteps"):
            scheduler.step_pred(x, x, 0.5) if name == "ScoreSdeVpScheduler" else scheduler.step_pred(x, 0.5, x)
    wuerstchen = schedulers.DDPMWuerstchenScheduler()
    wuerstchen.set_timesteps(3)
    with pytest.raises(IndexError):
        wuerstchen.step(x, wuerstchen.timesteps[-1:], x)
    unclip = schedulers.UnCLIPScheduler(variance_type="learned")
    unclip.set_timesteps(3)
    with pytest.raises(ValueError, match="variance_type"):
        unclip.step(x, 999, x)

"""A captured run: one graph replayed for any noise, seed, guidance, argument and plan equals `sample` to the bit.

Without a GPU the program that would be captured is run again at every replay, and the device table is a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff import guidance as fg
from fastdiff.ops import registry
from fastdiff.sampling.graph import CaptureError, captured
from fastdiff.sampling.graph import replay as programs

SCHEDULE = fd.Schedule.scaled_linear()
SHAPE = (2, 3, 8, 8)
SEEDS = [3, 2**40 + 7]
SINGLE = [s.name for s in fd.solvers()]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | float = 0.0, scale: float = 1.0) -> Tensor:
        phase = (t / 1000).view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        if isinstance(shift, Tensor):
            shift = shift.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return (torch.sin(self.gain * x + 2 * phase) * scale + 0.2 * x.roll(1, -1) + shift).to(x.dtype)


class ListTable:
    """The device table on the CPU: the same contract, the steps run by the backend that `sample` uses."""

    def __init__(self, rows: int, t: Tensor) -> None:
        self.rows, self.t, self.counter = rows, t, 0

    def write(self, calls: list[tuple], times: Tensor) -> None:
        self.calls, self.times = calls, times

    def rewind(self) -> None:
        self.counter = 0
        self.t.fill_(self.times[0].item())

    def launch(self) -> None:
        if self.counter == self.rows:  # capturing runs nothing, so it has no rows to come to the end of
            self.rewind()
        x = self.calls[self.counter][2]
        registry.choose("solver_step", registry.CallSpec("cpu", x.dtype, tuple(x.shape)))(*self.calls[self.counter])
        self.counter += 1
        if self.counter < self.rows:
            self.t.fill_(self.times[self.counter].item())


class Rerun:
    """A graph on the CPU: the program again at every call, the model's outputs always in the same places."""

    running: Rerun

    def __init__(self, program: Callable[[], object], warm_up: Callable[[], object]) -> None:
        warm_up()
        self.program, self.places = program, []
        self.result = self()

    def __call__(self) -> object:
        Rerun.running, self.filled = self, 0
        self.result = self.program()
        return self.result

    @classmethod
    def borrowed(cls, tensor: Tensor) -> Tensor:
        run = cls.running
        run.filled += 1
        if len(run.places) < run.filled:
            run.places.append(tensor.clone())
        return run.places[run.filled - 1].copy_(tensor)


@pytest.fixture(params=["table", "fixed", pytest.param("cuda", marks=pytest.mark.gpu)])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "cuda":
        monkeypatch.setattr(programs, "record", Rerun)
        monkeypatch.setattr(programs, "StepTable", ListTable)
        monkeypatch.setattr(programs, "borrowed", Rerun.borrowed)
    if request.param == "table":
        monkeypatch.setattr(captured.registry, "chosen", lambda op, case: "cuda")
    return request.param


@pytest.fixture
def device(kind: str) -> str:
    return "cuda" if kind == "cuda" else "cpu"


def plan(solver: str, steps: int = 5, **options: object) -> fd.Plan:
    return fd.plan(solver, SCHEDULE, steps, **options)


def test_a_replay_equals_sample_for_every_solver(kind: str, device: str) -> None:
    model = Network().to(device)
    for name in SINGLE:
        made = plan(name)
        run = fd.capture(model, made, torch.randn(SHAPE, device=device))
        for _ in range(2):
            noise = torch.randn(SHAPE, device=device)
            assert torch.equal(run(noise, seeds=SEEDS), fd.sample(model, made, noise, seeds=SEEDS)), name


@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_guidance_and_arguments_change_without_a_capture(kind: str, device: str, mode: str, dtype: torch.dtype) -> None:
    def arguments(guidance: float | Tensor) -> dict[str, object]:
        shifts = torch.randn(2, 2, device=device)
        return {"guidance": guidance, "shift": shifts[0], "uncond": {"shift": shifts[1]}}

    model, made = Network().to(device), plan("dpmpp_2m")
    example = torch.randn(SHAPE, device=device, dtype=dtype)
    run = fd.capture(model, made, example, guidance_mode=mode, **arguments(3.0))
    for guidance in (3.0, 7.5, 1.5, torch.tensor([2.0, 5.0])):
        noise, given = torch.randn(SHAPE, device=device, dtype=dtype), arguments(guidance)
        expected = fd.sample(model, made, noise, guidance_mode=mode, **given)
        assert torch.equal(run(noise, **given), expected)
    again = run(noise)
    assert torch.equal(again, expected)  # what is left out stays as it was


METHODS = [
    fg.APG(5.0, norm=2.5, momentum=-0.5),
    fg.CFG(4.0, rescale=0.7),
    fg.CFG(4.0, interval=(0.5, 5.0)),
    fg.CFGpp(0.6),
    fg.ZeroStar(3.0),
    fg.ReuseUncond(3.0),
    fg.PerpNeg(4.0, empty={"shift": torch.tensor([0.0, 0.2])}),
]


@pytest.mark.parametrize("mode", ["batch", "calls"])
@pytest.mark.parametrize("guidance", METHODS, ids=repr)
def test_every_method_is_captured(kind: str, device: str, mode: str, guidance: fg.Guidance) -> None:
    model, steps = Network().to(device), plan("dpmpp_2m")
    noise, shift = torch.randn(SHAPE, device=device), torch.tensor([0.3, -0.1], device=device)
    others = {"uncond": {"shift": torch.zeros(2, device=device)}, "guidance_mode": mode}
    if isinstance(guidance, fg.PerpNeg):
        guidance = fg.PerpNeg(4.0, empty={"shift": torch.tensor([0.0, 0.2], device=device)})
    run = fd.capture(model, steps, noise, guidance=guidance, shift=shift, **others)
    for given in (noise, torch.randn_like(noise)):
        expected = fd.sample(model, steps, given, guidance=guidance, shift=shift, **others)
        assert torch.equal(run(given, guidance=guidance), expected)
        assert torch.equal(run(given), expected)
    with pytest.raises(ValueError, match=r"guidance: .* was captured"):
        run(noise, guidance=fg.Tangential(2.0))


@pytest.mark.parametrize("name", ["gaussian", "proximal", "pseudoinverse", "function"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_runs_given_an_observation_are_captured(kind: str, device: str, name: str, solver: str) -> None:
    model, steps = Network().to(device), plan(solver)
    size = math.prod(SHAPE[1:])
    prior = fd.GaussianStart.from_covariance(torch.zeros(SHAPE[1:]), torch.eye(size), SCHEDULE)
    correction = fd.posterior.GaussianPrior(prior) if name == "gaussian" else name
    A = torch.eye(size)[::3]
    obs = fd.Observation(A.to(device), torch.ones(1, len(A), device=device), noise=0.1)
    noise, shift = torch.randn(SHAPE, device=device), torch.tensor([0.3, -0.1], device=device)
    options = {"guidance": 3.0, "uncond": {"shift": torch.zeros(2, device=device)}, "shift": shift}
    options |= {"observation": obs, "correction": correction}
    if name == "function":
        with pytest.raises(ValueError, match=r"correction: .* takes gradients"):
            fd.capture(model, steps, noise, **{**options, "correction": lambda step: step.denoised})
        return
    run = fd.capture(model, steps, noise, **options)
    for given in (noise, torch.randn_like(noise)):
        assert torch.equal(run(given, seeds=SEEDS), fd.sample(model, steps, given, seeds=SEEDS, **options))


def test_guidance_that_decides_while_it_runs_is_not_captured(device: str, kind: str) -> None:
    noise, shift = torch.randn(SHAPE, device=device), torch.ones(2, device=device)
    with pytest.raises(ValueError, match=r"guidance: .* decides during the run"):
        fd.capture(Network(), plan("ddim"), noise, guidance=fg.Adaptive(3.0), uncond={"shift": 0 * shift}, shift=shift)


def test_a_method_that_is_plain_everywhere_is_its_scale(device: str, kind: str) -> None:
    model, steps, noise = Network().to(device), plan("ddim"), torch.randn(SHAPE, device=device)
    shift = torch.ones(2, device=device)
    run = fd.capture(model, steps, noise, guidance=fg.CFG(3.0), uncond={"shift": 0 * shift}, shift=shift)
    for guidance in (fg.CFG(5.0), 5.0):
        expected = fd.sample(model, steps, noise, guidance=guidance, uncond={"shift": 0 * shift}, shift=shift)
        assert torch.equal(run(noise, guidance=guidance), expected)


def test_one_graph_runs_every_plan_with_as_many_rows(device: str, kind: str) -> None:
    model, noise = Network().to(device), torch.randn(SHAPE, device=device)
    run = fd.capture(model, plan("ddim", 6), noise)
    for other in (plan("unipc", 6, order=3), plan("dpmpp_2m_sde", 6), plan("heun", 3, grid="karras"), plan("ddim", 6)):
        if other.nfe != 6:
            continue
        if kind == "fixed":
            if run.serves(other):
                continue
            with pytest.raises(ValueError, match="capture the other plan anew"):
                run(noise, plan=other)
        else:
            assert torch.equal(run(noise, plan=other, seeds=SEEDS), fd.sample(model, other, noise, seeds=SEEDS))
    with pytest.raises(ValueError, match="plan: "):
        run(noise, plan=plan("ddim", 7))


def test_one_captured_step_serves_a_whole_run(device: str, kind: str) -> None:
    model, noise, made = Network().to(device), torch.randn(SHAPE, device=device), plan("dpmpp_2m", 9)
    if kind == "fixed":
        with pytest.raises(ValueError, match="whole: one captured step"):
            fd.capture(model, made, noise, whole=False)
    else:
        run = fd.capture(model, made, noise, whole=False)
        assert torch.equal(run(noise), fd.sample(model, made, noise))


def test_images_thresholds_and_clamps_go_in(device: str, kind: str) -> None:
    model, noise, image = Network().to(device), torch.randn(SHAPE, device=device), torch.rand(SHAPE, device=device)
    made = plan("dpmpp_2m", 5, start=0.6)
    for options in ({"threshold": 0.9, "threshold_limit": 3.0}, {"clamp": 0.8}):
        run = fd.capture(model, made, noise, **options)
        assert torch.equal(run(noise, image=image), fd.sample(model, made, noise, image=image, **options))


def test_a_weight_changed_in_place_is_seen(device: str, kind: str) -> None:
    model, noise, made = Network().to(device), torch.randn(SHAPE, device=device), plan("ddim")
    run = fd.capture(model, made, noise)
    before = run(noise)
    with torch.no_grad():
        model.gain.mul_(0.5)
    assert torch.equal(run(noise), fd.sample(model, made, noise))
    assert not torch.equal(run(noise), before)


def test_seeds_are_drawn_where_none_are_given(device: str, kind: str) -> None:
    model, noise, made = Network().to(device), torch.randn(SHAPE, device=device), plan("dpmpp_2m_sde")
    run = fd.capture(model, made, noise)
    torch.manual_seed(1)
    expected = fd.sample(model, made, noise)
    torch.manual_seed(1)
    assert torch.equal(run(noise), expected)
    assert not torch.equal(run(noise), expected)


@pytest.mark.parametrize("limits", [{"clamp": 0.5}, {"threshold": 0.9}])
def test_a_captured_bound_on_x0_is_samples_in_every_form(device: str, kind: str, limits: dict) -> None:
    model, noise = Network().to(device), torch.randn(SHAPE, device=device)
    data, other = plan("dpmpp_2m"), plan("dpm_solver_2m")
    for made in (data, other):
        run = fd.capture(model, made, noise, **limits)
        assert torch.equal(run(noise), fd.sample(model, made, noise, **limits))
    run = fd.capture(model, data, noise, **limits)
    with pytest.raises(ValueError, match="plan: "):  # a row of another form takes two launches, the graph has one
        run(noise, plan=other)


def test_bad_input_names_the_argument(device: str, kind: str) -> None:
    model, noise = Network().to(device), torch.randn(SHAPE, device=device)
    run = fd.capture(model, plan("ddim"), noise, shift=torch.zeros(2, device=device), scale=1.0)
    with pytest.raises(ValueError, match=r"noise: expected .* as captured"):
        run(noise[:1])
    with pytest.raises(TypeError, match=r"noise: expected a torch\.Tensor"):
        run([1.0])
    with pytest.raises(ValueError, match="guidance: captured without guidance"):
        run(noise, guidance=2.0)
    with pytest.raises(ValueError, match="another structure"):
        run(noise, shift=torch.zeros(2, device=device))
    with pytest.raises(ValueError, match=r"1\.0 was captured and is no tensor"):
        run(noise, shift=torch.zeros(2, device=device), scale=2.0)
    with pytest.raises(ValueError, match="example: expected at least one element"):
        fd.capture(model, plan("ddim"), noise[:0])


def test_sample_says_what_a_graph_needs() -> None:
    model, noise, made = Network(), torch.randn(SHAPE), plan("ddim")
    with pytest.raises(ValueError, match="graph: expected noise on a CUDA device, got cpu"):
        fd.sample(model, made, noise, graph=True)
    with pytest.raises(ValueError, match="graph: expected False, True or 'auto', got 'yes'"):
        fd.sample(model, made, noise, graph="yes")
    with pytest.raises(ValueError, match="graph: a captured run has no callback"):
        fd.sample(model, made, noise, graph=True, progress=True)
    assert torch.equal(fd.sample(model, made, noise, graph="auto"), fd.sample(model, made, noise))


@pytest.mark.gpu
def test_sample_keeps_a_graph_for_each_method() -> None:
    model, noise, shift = Network().cuda(), torch.randn(SHAPE, device="cuda"), torch.ones(2, device="cuda")
    for guidance in (fg.APG(3.0), fg.APG(5.0), fg.CFG(4.0), fg.CFG(2.0)):
        options = {"guidance": guidance, "uncond": {"shift": 0 * shift}, "shift": shift}
        expected = fd.sample(model, plan("ddim"), noise, **options)
        for _ in range(2):
            assert torch.equal(fd.sample(model, plan("ddim"), noise, graph=True, **options), expected)


@pytest.mark.gpu
def test_sample_keeps_the_graph_of_a_module() -> None:
    model, noise = Network().cuda(), torch.randn(SHAPE, device="cuda")
    for made in (plan("dpmpp_2m"), plan("unipc"), plan("dpmpp_2m", 7)):
        for guidance in (2.0, 4.0):
            options = {"guidance": guidance, "shift": noise[:, 0, 0, 0], "uncond": {"shift": noise[:, 0, 0, 1]}}
            drawn = fd.sample(model, made, noise, graph=True, **options)
            assert torch.equal(drawn, fd.sample(model, made, noise, **options))


@pytest.mark.gpu
def test_a_model_that_cannot_be_captured_is_named() -> None:
    def waits(x: Tensor, t: Tensor) -> Tensor:
        return x * float(x.mean().item())

    made, noise = plan("ddim"), torch.randn(SHAPE, device="cuda")
    with pytest.raises(CaptureError, match="_local_scalar_dense"):
        fd.sample(waits, made, noise, graph=True)
    torch.cuda.synchronize()
    assert torch.equal(fd.sample(waits, made, noise, graph="auto"), fd.sample(waits, made, noise))


@pytest.mark.gpu
def test_memory_does_not_grow_with_the_steps() -> None:
    def used(steps: int) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        kept = fd.capture(lambda x, t: 0.9 * x, plan("dpmpp_2m", steps), torch.randn(4, 4, 256, 256, device="cuda"))
        after = torch.cuda.memory_reserved()
        del kept
        return after - before

    assert used(40) <= used(5) + 2**21

"""Guidance whose calls are made by several processes: the samples of one process, to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked_ranks import meet, run_ranks
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from two_ranks import needs_gloo

import fastdiff as fd
from fastdiff.guidance import APG, CFG, Autoguidance, Term, Terms, ZeroStar
from fastdiff.sampling.ranks import Ranks

pytestmark = needs_gloo
COUNT, SHAPE = 4, (2, 3, 6, 5)
FLOW = fd.Schedule.flow()
STEPS = {
    "ode": fd.plan("dpmpp_2m", FLOW, 4, prediction="flow_prediction"),
    "sde": fd.plan("dpmpp_2m_sde", FLOW, 4, prediction="flow_prediction"),
}
STEPS["cheap"] = STEPS["sde"].with_calls(["full", "cheap", "full", "cheap"])
UNCOND, THIRD, FOURTH = {"y": torch.zeros(2)}, {"y": torch.tensor([-1.0, 0.5])}, {"y": torch.tensor([0.3, -2.0])}


class Network:
    """A function of whole samples and of y [B], and how often it was called."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.calls, self.dtype = 0, dtype

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        shift = (y + t).view(-1, 1, 1, 1).to(x.dtype)
        return (torch.tanh(x * (1 + shift)) - 0.3 * x.mean((1, 2, 3), keepdim=True) + 0.1 * shift).to(self.dtype)

    def full(self, x: Tensor, t: Tensor, state: Any = None, *, log_snr: Any = None, y: Tensor) -> tuple[Tensor, Tensor]:
        m = self(x, t, y)
        return m, m.clone()

    def cheap(self, x: Tensor, t: Tensor, state: Tensor, *, log_snr: Any = None, y: Tensor) -> Tensor:
        self.calls += 1
        return 0.9 * state + 0.1 * x


OBSERVATION = fd.Observation(torch.eye(90)[:30], torch.zeros(2, 30), noise=0.5)
WEAK = Network(torch.float64)  # another network, whose outputs are of another type
PAIRS: dict[str, tuple[str, Any, dict]] = {  # plan, guidance, options
    "a number": ("sde", 4.0, {}),
    "a number for each sample": ("ode", torch.tensor([1.5, 6.0]), {"clamp": 1.5}),
    "an interval": ("sde", CFG(5.0, interval=(0.3, 2.0)), {}),
    "inner products and a state": ("sde", APG(6.0, norm=4.0, momentum=-0.5, rescale=0.7), {"threshold": 0.95}),
    "a row without a call": ("ode", ZeroStar(4.0), {}),
    "cheap rows": ("cheap", 3.0, {}),
    "an observation": ("ode", 3.0, {"observation": OBSERVATION, "correction": fd.posterior.Proximal(spread=1.0)}),
    "another network": ("sde", Autoguidance(2.0, weak=WEAK), {"uncond": None}),
}
THREE = Terms(3.0, terms=[Term(1.2, THIRD)], rescale=0.5)
FOUR = Terms(3.0, terms=[Term(1.2, THIRD), Term(0.7, FOURTH, interval=(0.0, 1.0))])


def noise(part: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return fd.noise.randn(SHAPE, seeds=[2 * part, 2 * part + 1], dtype=dtype)


def draw(network: Callable, name: str, guidance: Any, mode: str, part: int = 0, **options: Any) -> Tensor:
    given = {"seeds": [part, 9], "uncond": UNCOND, "y": torch.tensor([1.0, -0.4]), "guidance_mode": mode} | options
    return fd.sample(network, STEPS[name], noise(part), guidance=guidance, **given)


def adaptive(mode: str, **options: Any) -> Tensor:
    given = {"guidance": 3.0, "uncond": UNCOND, "y": torch.tensor([1.0, -0.4]), "guidance_mode": mode} | options
    return fd.sample_adaptive(Network(), FLOW, noise(), prediction="flow_prediction", **given)


def said(run: Callable, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        run()
    return str(caught.value)


class Pipeline(torch.nn.Module):
    """A network as pipelines call it: the time by name, further tensors in a dictionary, an object for an output."""

    def forward(self, sample: Tensor, timestep: Tensor, added: dict[str, Tensor], scales: list[float]) -> dict:
        if scales[0] < 0:
            raise ArithmeticError("out of luck")
        self.rows = len(sample)
        return {"sample": torch.tanh(sample * (timestep + added["text"]).view(-1, 1)), "loss": torch.ones(())}


def divided(rank: int, pair: Any) -> dict[str, Any]:
    """What a network gives in a batch that two processes divide, and what it says where they cannot."""
    network, text = Pipeline(), torch.arange(5.0)
    given = {"timestep": torch.tensor(3.0), "added": {"text": text}, "scales": [2.0]}
    with fd.split_batch(network, pair):
        out = network(noise().flatten()[:20].view(5, 4), **given)
        found: dict[str, Any] = {"sample": out["sample"], "loss": out["loss"], "rows": network.rows}
        found["few"] = said(lambda: network(torch.ones(1, 4), **given), ValueError)
        found["fails"] = said(
            lambda: network(noise().flatten()[:20].view(5, 4), **(given | {"scales": [-1.0 if rank else 1.0]})),
            ArithmeticError if rank else RuntimeError,
        )
    with fd.split_batch(network, pair):
        found["differs"] = said(lambda: network(torch.full((5, 4), float(rank)), **given), ValueError)
    return found | {"after": "forward" in vars(network)}


def failures(rank: int, pair: Any) -> dict[str, Any]:
    """What two processes say where they cannot draw a sample."""

    def fails(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if rank == 1 and float(t[0]) < 0.7:
            raise ArithmeticError("out of luck")
        return Network()(x, t, y)

    guided = {"guidance_group": pair, "seeds": [0, 9]}
    found = {
        "model": said(lambda: draw(fails, "ode", 3.0, "ranks", **guided), ArithmeticError if rank else RuntimeError)
    }
    different = {
        "noise": lambda: draw(Network(), "ode", 3.0, "ranks", part=rank, **guided),
        "seeds": lambda: draw(Network(), "sde", 3.0, "ranks", **(guided | {"seeds": [1000 + rank, 0]})),
        "plan": lambda: draw(Network(), ("ode", "sde")[rank], 3.0, "ranks", **guided),
        "guidance": lambda: draw(Network(), "ode", 3.0 + rank, "ranks", **guided),
    }
    found |= {name: said(run, ValueError).split(",")[0] for name, run in different.items()}
    found["again"] = torch.equal(draw(Network(), "ode", 3.0, "ranks", **guided), draw(Network(), "ode", 3.0, "calls"))
    return found


def late(rank: int) -> dict[str, Any]:
    """Who waits for a process that does not come gives up at its group's timeout."""
    dist.barrier()  # making the group has the same timeout

    def wait() -> None:
        group = dist.new_group([0, 1], timeout=timedelta(seconds=1))
        if rank == 0:
            draw(Network(), "ode", 3.0, "ranks", guidance_group=group)

    if rank == 0:
        return {"late": said(wait, RuntimeError)}
    with contextlib.suppress(RuntimeError):
        wait()
    return {}


def process(rank: int, place: Path) -> None:
    """One of four: what it draws and says goes to a file."""
    meet(rank, place, COUNT)
    torch.manual_seed(rank)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "guidance"))
    part, pair, drawn, calls = rank // 2, mesh["guidance"], {}, {}
    for name, (plan, guidance, options) in PAIRS.items():
        network, WEAK.calls = Network(), 0
        drawn[name] = draw(network, plan, guidance, "ranks", part, guidance_group=pair, **options)
        calls[name] = network.calls + WEAK.calls
    drawn["adaptive"] = adaptive("ranks", guidance_group=pair)
    triple = dist.new_group([3, 0, 1])
    if rank != 2:
        drawn["three"] = draw(Network(), "sde", THREE, "ranks", guidance_group=triple)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "on_host", False)
        drawn["told once"] = draw(Network(), "sde", CFG(5.0, interval=(0.3, 2.0)), "ranks", guidance_group=pair)
    drawn["four"] = draw(Network(), "sde", FOUR, "ranks")
    drawn["own seeds"] = draw(Network(), "sde", 3.0, "ranks", guidance_group=pair, seeds=None)
    drawn["sharded"] = sharded(mesh)
    said_here = failures(rank % 2, pair) | late(rank)
    split = divided(rank % 2, pair)
    torch.save({"split": split, "drawn": drawn, "calls": calls, "said": said_here}, place / f"found-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def sharded(mesh: Any) -> Tensor:
    """Two processes for the outputs of each of two parts of the samples."""
    shard = fd.Sharded(2, SHAPE[2], mesh["data"])
    local = lambda x, t, y: torch.tanh(x * (1 + y.view(-1, 1, 1, 1)))  # noqa: E731
    options = {"uncond": UNCOND, "y": torch.ones(2), "guidance_mode": "ranks", "guidance_group": mesh["guidance"]}
    drawn = fd.sample(local, STEPS["sde"], shard.part(noise()), shard=shard, guidance=3.0, seeds=[4, 5], **options)
    return shard.whole(drawn)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """By each process."""
    place = tmp_path_factory.mktemp("ranks")
    run_ranks("test_guidance_ranks", place, COUNT)
    return [torch.load(place / f"found-{rank}.pt") for rank in range(COUNT)]


@pytest.mark.parametrize("name", PAIRS)
def test_two_processes_draw_what_one_does_in_separate_calls(found, name):
    plan, guidance, options = PAIRS[name]
    for rank, each in enumerate(found):
        assert torch.equal(each["drawn"][name], draw(Network(), plan, guidance, "calls", rank // 2, **options))


@pytest.mark.parametrize("name", PAIRS)
def test_each_process_makes_its_own_calls_alone(found, name):
    plan, guidance, options = PAIRS[name]
    network, WEAK.calls = Network(), 0
    draw(network, plan, guidance, "calls", **options)
    for first, second in (found[:2], found[2:]):
        assert first["calls"][name] + second["calls"][name] == network.calls + WEAK.calls
        assert second["calls"][name] <= first["calls"][name] <= STEPS[plan].nfe


@pytest.mark.parametrize(("name", "guidance", "ranks"), [("three", THREE, (0, 1, 3)), ("four", FOUR, (0, 1, 2, 3))])
def test_each_output_may_have_a_process(found, name, guidance, ranks):
    expected = draw(Network(), "sde", guidance, "calls")
    assert all(torch.equal(found[rank]["drawn"][name], expected) for rank in ranks)


def test_without_a_backend_for_the_host_outputs_are_the_same(found):
    expected = draw(Network(), "sde", CFG(5.0, interval=(0.3, 2.0)), "calls")
    assert all(torch.equal(each["drawn"]["told once"], expected) for each in found)


def test_adaptive_steps_are_those_of_one_process(found):
    assert all(torch.equal(each["drawn"]["adaptive"], adaptive("calls")) for each in found)


def test_seeds_that_nobody_gave_are_the_same_in_a_group(found):
    drawn = [each["drawn"]["own seeds"] for each in found]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])


def test_guidance_and_shards_go_together_on_a_mesh(found):
    local = lambda x, t, y: torch.tanh(x * (1 + y.view(-1, 1, 1, 1)))  # noqa: E731
    options = {"guidance": 3.0, "uncond": UNCOND, "y": torch.ones(2), "guidance_mode": "calls", "seeds": [4, 5]}
    expected = fd.sample(local, STEPS["sde"], noise(), **options)
    assert all(torch.equal(each["drawn"]["sharded"], expected) for each in found)


def test_a_model_that_fails_in_one_process_ends_the_run_in_all_and_the_next_one_works(found):
    for rank, each in enumerate(found):
        assert each["said"]["model"] == ("out of luck" if rank % 2 else found[0]["said"]["model"])
        assert each["said"]["again"]
    assert "unconditional call failed" in found[0]["said"]["model"]


@pytest.mark.parametrize("name", ["noise", "seeds", "plan", "guidance"])
def test_what_differs_between_the_processes_is_named(found, name):
    for each in found:
        assert each["said"][name] == f"{name}: expected the same in all processes"


def test_a_process_that_does_not_come_is_not_waited_for_beyond_the_timeout(found):
    assert found[0]["said"]["late"]


def test_a_batch_may_be_divided_whatever_makes_it(found):
    given = {"timestep": torch.tensor(3.0), "added": {"text": torch.arange(5.0)}, "scales": [2.0]}
    expected = Pipeline()(noise().flatten()[:20].view(5, 4), **given)
    for rank, each in enumerate(found):
        split = each["split"]
        assert torch.equal(split["sample"], expected["sample"])
        assert torch.equal(split["loss"], expected["loss"])
        assert split["rows"] == (2, 3)[rank % 2]
        assert split["few"].startswith("network: expected a batch of at least 2")
        assert split["fails"] == (
            "out of luck" if rank % 2 else "network: it failed in another process, whose own error says why"
        )
        assert split["differs"].startswith("input: expected the same in all processes")
        assert not split["after"]


def test_a_batch_is_divided_among_processes_that_there_are():
    with pytest.raises(RuntimeError, match="split_batch: it needs torch"), fd.split_batch(Pipeline()):
        pass


def test_what_cannot_be_is_said_before_anything_runs():
    options = {"guidance": 3.0, "uncond": {}, "guidance_mode": "ranks"}
    plan, x = STEPS["ode"], torch.randn(2, 3)
    with pytest.raises(RuntimeError, match="guidance_mode: 'ranks' needs torch"):
        fd.sample(torch.tanh, plan, x, **options)
    with pytest.raises(ValueError, match="guidance_mode: 'ranks' is for sample"):
        fd.capture(torch.tanh, plan, x, **options)
    with pytest.raises(ValueError, match="graph: processes exchange"):
        fd.sample(torch.tanh, plan, x, graph=True, **options)
    with pytest.raises(ValueError, match="guidance_mode: 'ranks' is for sample"):
        fd.sample(torch.tanh, plan, x, parallel=True, **options)
    with pytest.raises(ValueError, match="guidance_group: expected guidance_mode='ranks'"):
        fd.sample(torch.tanh, plan, x, guidance=3.0, uncond={}, guidance_group=object())


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """A group of this process."""
    meet(0, tmp_path, 1)
    yield
    dist.destroy_process_group()


def test_there_is_a_process_for_each_output(alone):
    options = {"uncond": {"y": 0}, "y": 1, "guidance_mode": "ranks"}
    plan, x = STEPS["ode"], torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"guidance_group: expected 2 .* \(conditional, unconditional\), got 1"):
        fd.sample(lambda x, t, y: x, plan, x, guidance=3.0, **options)
    with pytest.raises(ValueError, match=r"guidance_group: expected 2 .* further"):
        fd.sample(lambda x, t, y: x, plan, x, guidance=Autoguidance(2.0, weak={"y": 2}), **options)
    assert fd.sample(lambda x, t, y: x, plan, x, guidance=1.0, **options).isfinite().all()
    observation = fd.Observation(lambda x0: x0[:, :1], torch.zeros(2, 1), noise=0.1)
    with pytest.raises(ValueError, match=r"correction: .* outputs of other processes"):
        fd.sample(lambda x, t, y: x, plan, x, guidance=1.0, observation=observation, **options)

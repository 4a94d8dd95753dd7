"""Samples of which each process has a part: the parts of the samples that one process draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked_ranks import meet, run_ranks
from torch import Tensor
from two_ranks import needs_gloo

import fastdiff as fd
from fastdiff.guidance import APG, CFG, Adaptive, CFGNorm, ClassifierGuidance, FreSca, Gradient, Magnitude

pytestmark = needs_gloo
COUNT = 3
FLOW = fd.Schedule.flow()
PLANS = {
    name: fd.plan(name, FLOW, 5, prediction="flow_prediction")
    for name in ("dpmpp_2m", "dpmpp_2m_sde", "sa_solver", "seeds_3")
}
VIDEO, TOKENS = (2, 3, 7, 4, 5), (2, 7, 6)  # no size of three parts is the same
UNCOND = {"y": torch.zeros(2)}


def by_position(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A network that reads no other position."""
    shift = (y + t).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x * (1 + shift)) + 0.1 * shift


class Attention:
    """Self-attention of three heads over all tokens, of which this process has a part (Jacobs et al. 2023, "DeepSpeed
    Ulysses"): each process has all tokens of one head while they attend. sizes: None for all tokens here."""

    def __init__(self, sizes: tuple[int, ...] | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inward, self.outward = (torch.randn(n, 6, generator=generator, dtype=torch.float64) / 2 for n in (18, 6))
        self.sizes = sizes

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        qkv = (x * (1 + (y + t).to(x.dtype)[:, None, None])) @ self.inward.to(x.dtype).T
        heads = qkv.view(*x.shape[:2], 3, 3, 2).permute(3, 1, 0, 2, 4)  # [heads, tokens, B, q k v, 2]
        q, k, v = self._gathered(heads).permute(3, 2, 0, 1, 4)  # each [B, heads, tokens, 2]
        attended = torch.softmax(q @ k.mT, -1) @ v
        out = self._scattered(attended.permute(1, 2, 0, 3))  # [heads, tokens, B, 2]
        return out.permute(2, 1, 0, 3).flatten(2) @ self.outward.to(x.dtype).T - 0.3 * x

    def _gathered(self, heads: Tensor) -> Tensor:
        """[1, all tokens, ...] of one head from [3, own tokens, ...]."""
        if self.sizes is None:
            return heads
        own = heads.shape[1]
        sent = heads.flatten(0, 1).contiguous()
        return self._exchanged(sent, list(self.sizes), [own] * COUNT)[None]

    def _scattered(self, head: Tensor) -> Tensor:
        """[3, own tokens, ...] from [1, all tokens, ...]."""
        if self.sizes is None:
            return head
        own = self.sizes[dist.get_rank()]
        sent = head[0].contiguous()
        return self._exchanged(sent, [own] * COUNT, list(self.sizes)).view(COUNT, own, *sent.shape[1:])

    @staticmethod
    def _exchanged(sent: Tensor, come: list[int], go: list[int]) -> Tensor:
        found = sent.new_empty((sum(come), *sent.shape[1:]))
        dist.all_to_all_single(found, sent, come, go)
        return found


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return fd.noise.randn(shape, [3, 8], dtype=dtype)


GUIDED = {"uncond": UNCOND, "y": torch.tensor([1.0, -0.4]), "seeds": [5, 2**40]}
EXACT: dict[str, tuple[str, int, dict[str, Any]]] = {  # plan, sharded dimension, options
    "deterministic": ("dpmpp_2m", 2, {"guidance": 3.0}),
    "stochastic": ("dpmpp_2m_sde", 2, {"guidance": 3.0}),
    "a noise drawn twice": ("sa_solver", -1, {"guidance": 3.0}),
    "several noises a row": ("seeds_3", 1, {"guidance": 3.0}),
    "a dynamic threshold": ("dpmpp_2m_sde", 3, {"guidance": 6.0, "threshold": 0.9, "threshold_limit": 3.0}),
    "a threshold of the median": ("dpmpp_2m", 2, {"guidance": 9.0, "threshold": 0.5, "threshold_limit": 3.0}),
    "a bound": ("dpmpp_2m", 2, {"guidance": torch.tensor([2.0, 5.0]), "clamp": 0.7}),
    "a norm of channels": ("dpmpp_2m_sde", 2, {"guidance": CFGNorm(4.0)}),
    "a spectrum of the picture": ("dpmpp_2m_sde", 2, {"guidance": FreSca(4.0, cutoff=1, dims=(3, 4))}),
    "scales of frames": ("dpmpp_2m_sde", 3, {"guidance": CFG((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), frames_dim=2)}),
    "half precision": ("dpmpp_2m_sde", 2, {"guidance": 3.0, "model_dtype": torch.bfloat16}),
}
CLOSE: dict[str, tuple[str, dict[str, Any]]] = {
    "inner products, a state, a threshold": (
        "dpmpp_2m_sde",
        {"guidance": APG(6.0, norm=4.0, momentum=-0.5, rescale=0.7), "threshold": 0.95, "threshold_limit": 4.0},
    ),
    "a mean and a deviation": ("dpmpp_2m_sde", {"guidance": CFG(5.0, rescale=0.7)}),
    "norms": ("dpmpp_2m", {"guidance": Magnitude(5.0)}),
    "a decision of the host": ("dpmpp_2m", {"guidance": Adaptive(3.0, cosine=0.99)}),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
ADAPTIVE = {"guidance": 2.0, "rtol": 0.02, "atol": 0.005, "prediction": "flow_prediction", "return_plan": True}


def drawn(name: str, at: Callable[[int], fd.Sharded | None], part: Callable[[Tensor, Any], Tensor]) -> Tensor:
    plan, dim, options = EXACT[name]
    shard, x = at(dim), noise(VIDEO, torch.float32)
    return fd.sample(by_position, PLANS[plan], part(x, shard), shard=shard, **(GUIDED | options))


def inpainted(shard: fd.Sharded | None, part: Callable[[Tensor, Any], Tensor]) -> Tensor:
    x, image, mask = noise(VIDEO, torch.float32), torch.ones(VIDEO), (noise(VIDEO, torch.float32) > 0).float()
    given = {"image": part(image, shard), "mask": part(mask, shard), "shard": shard}
    return fd.sample(by_position, PLANS["dpmpp_2m_sde"], part(x, shard), guidance=3.0, **given, **GUIDED)


def attended(name: str, dtype: torch.dtype, shard: fd.Sharded | None, part: Callable) -> Tensor:
    plan, options = CLOSE[name]
    network = Attention(shard.sizes if shard else None)
    return fd.sample(network, PLANS[plan], part(noise(TOKENS, dtype), shard), shard=shard, **(GUIDED | options))


def adaptive(shard: fd.Sharded | None, part: Callable) -> tuple[Tensor, fd.Plan]:
    network, given = Attention(shard.sizes if shard else None), {k: v for k, v in GUIDED.items() if k != "seeds"}
    x = part(noise(TOKENS, torch.float64), shard)
    return fd.sample_adaptive(network, FLOW, x, shard=shard, **given, **ADAPTIVE)


def whole(x: Tensor, shard: fd.Sharded | None) -> Tensor:
    return x


def own(x: Tensor, shard: fd.Sharded) -> Tensor:
    return shard.part(x)


def said(run: Callable) -> str:
    with pytest.raises(ValueError, match="expected the same in all processes") as caught:
        run()
    return str(caught.value).split(":")[0]


def process(rank: int, place: Path) -> None:
    """One of three: the samples that it and the others have drawn go to a file."""
    meet(rank, place, COUNT)
    torch.manual_seed(rank)
    found: dict[str, Any] = {}
    for name in EXACT:
        shard = fd.Sharded(EXACT[name][1], VIDEO[EXACT[name][1]])
        found[name] = shard.whole(drawn(name, lambda dim, shard=shard: shard, own))
    frames, tokens = fd.Sharded(2, (2, 4, 1)), fd.Sharded(1, TOKENS[1])
    found["inpainted"] = frames.whole(inpainted(frames, own))
    for name in CLOSE:
        for dtype in TOLERANCE:
            found[f"{name} {dtype}"] = tokens.whole(attended(name, dtype, tokens, own))
    x, plan = adaptive(tokens, own)
    found["adaptive"], found["steps"] = tokens.whole(x), plan.nfe
    x = tokens.part(noise(TOKENS, torch.float32))
    apart, sde = {name: value for name, value in GUIDED.items() if name != "seeds"}, PLANS["dpmpp_2m_sde"]
    found["errors"] = [
        said(lambda: fd.sample(by_position, sde, x, shard=tokens, seeds=[0, 1000 + rank], y=GUIDED["y"])),
        said(lambda: fd.sample(by_position, PLANS["dpmpp_2m"], x, shard=tokens, guidance=2.0 + rank, **apart)),
    ]  # fmt: skip
    unseeded = fd.sample(by_position, sde, x, shard=tokens, y=GUIDED["y"])
    found["unseeded"] = tokens.whole(unseeded)
    torch.save(found, place / f"found-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By each process."""
    place = tmp_path_factory.mktemp("ranks")
    run_ranks("test_sharded", place, COUNT)
    return [torch.load(place / f"found-{rank}.pt") for rank in range(COUNT)]


@pytest.mark.parametrize("name", EXACT)
def test_the_parts_are_those_of_one_process_to_the_bit(found, name):
    expected = drawn(name, lambda dim: None, whole)
    assert all(torch.equal(each[name], expected) for each in found)


def test_an_image_and_a_mask_are_parts_too(found):
    expected = inpainted(None, whole)
    assert all(torch.equal(each["inpainted"], expected) for each in found)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CLOSE)
def test_what_is_summed_over_a_sample_is_summed_over_its_parts(found, name, dtype):
    """The order of summation differs, so the last digits do; but not between the processes."""
    expected, first = attended(name, dtype, None, whole), found[0][f"{name} {dtype}"]
    torch.testing.assert_close(first, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert all(torch.equal(each[f"{name} {dtype}"], first) for each in found)


def test_adaptive_steps_follow_the_error_of_whole_samples(found):
    expected, plan = adaptive(None, whole)
    for each in found:
        assert each["steps"] == plan.nfe
        torch.testing.assert_close(each["adaptive"], expected, rtol=1e-9, atol=1e-9)


def test_what_differs_between_the_processes_is_named_and_seeds_that_nobody_gave_are_shared(found):
    assert all(each["errors"] == ["seeds", "guidance"] for each in found)
    assert all(torch.equal(each["unseeded"], found[0]["unseeded"]) for each in found)


@pytest.mark.parametrize("size", [3, 4, 7, 21])
def test_a_size_is_divided_as_torch_divides_it(size, monkeypatch):
    parts = [part.shape[0] for part in torch.arange(size).tensor_split(3)]
    shards = []
    for rank in range(3):
        monkeypatch.setattr("fastdiff.sampling.ranks.initialised", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda group=None: 3)
        monkeypatch.setattr(dist, "get_rank", lambda group=None, rank=rank: rank)
        shards.append(fd.Sharded(1, size))
    assert [shard.own for shard in shards] == parts
    x = torch.randn(2, size, 3)
    assert torch.equal(torch.cat([shard.part(x) for shard in shards], 1), x)


def test_one_process_has_the_whole():
    shard, x = fd.Sharded(1, 7), noise(TOKENS, torch.float32)
    options = GUIDED | {"guidance": APG(4.0, rescale=0.5), "threshold": 0.9}
    alone = fd.sample(by_position, PLANS["dpmpp_2m_sde"], x, **options)
    assert torch.equal(fd.sample(by_position, PLANS["dpmpp_2m_sde"], shard.part(x), shard=shard, **options), alone)
    assert torch.equal(shard.whole(x), x)


OBSERVATION = fd.Observation(lambda x0: x0[:, :1], torch.zeros(2, 1, 6), noise=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": OBSERVATION}, "observation: it looks at whole samples"),
        ({"correction": lambda at: at.denoised}, "correction: it looks at whole samples"),
        ({"observation": OBSERVATION, "particles": 2}, "observation: it looks at whole samples"),
        ({"particles": 2}, "particles: it looks at whole samples"),
        ({"graph": True}, "graph: processes exchange tensors"),
        ({"parallel": True}, "shard: not with parallel=True"),
        ({"shard": fd.Sharded(1, 8)}, r"noise: expected 8 positions in dimension 1, got \(2, 7, 6\)"),
        ({"shard": fd.Sharded(3, 8)}, r"shard: expected a dimension of \(2, 7, 6\) after the first, got dim=3"),
        ({"shard": fd.Sharded(-3, 2)}, r"shard: expected a dimension of \(2, 7, 6\) after the first, got dim=-3"),
        ({"guidance": FreSca(3.0, dims=(1,))}, "guidance: FreSca.* reads other positions along dimension 1"),
        ({"guidance": CFGNorm(3.0)}, "guidance: CFGNorm.* reads other positions along dimension 1"),
        (
            {"guidance": CFG((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), frames_dim=2, rescale=0.5)},
            "guidance: CFG.* reads other positions",
        ),
        (
            {"guidance": ClassifierGuidance(1.0, Gradient(torch.sum), interval=(0.0, 9.0))},
            "guidance: Classifier.* takes the gradient of a function of whole samples",
        ),
    ],
)
def test_what_needs_whole_samples_is_refused_by_name(options, message):
    given = {"shard": fd.Sharded(1, 7)} | GUIDED | options
    with pytest.raises(ValueError, match=message):
        fd.sample(by_position, PLANS["dpmpp_2m_sde"], noise(TOKENS, torch.float32), **given)


def test_statistics_are_of_whole_samples():
    with pytest.raises(ValueError, match="shard: not here"):
        fd.estimate_statistics(by_position, FLOW, noise(TOKENS, torch.float32), shard=fd.Sharded(1, 7), y=torch.ones(2))


def test_bad_shards_are_refused_by_name():
    with pytest.raises(ValueError, match="dim: expected a dimension after the batch"):
        fd.Sharded(0, 4)
    for size in (0, (2, 2), (), (0,)):
        with pytest.raises(ValueError, match="size: expected at least one position for each of 1 processes"):
            fd.Sharded(1, size)


class Placed(torch.Tensor):
    """What a DTensor is known by; importing it takes longer than all of this."""

    placements = ("Shard(dim=1)",)

    def to_local(self) -> Tensor:
        return self.as_subclass(Tensor)


@pytest.mark.parametrize(("run", "plan"), [(fd.sample, PLANS["dpmpp_2m"]), (fd.sample_adaptive, FLOW)])
def test_a_dtensor_is_refused_with_what_to_pass_instead(run, plan):
    x = noise(TOKENS, torch.float32).as_subclass(Placed)
    with pytest.raises(TypeError, match=r"noise: .* DTensor .* shard=fastdiff\.Sharded\(dim, size, mesh\)"):
        run(by_position, plan, x, y=torch.ones(2))
    with pytest.raises(TypeError, match=r"model: expected .* a plain torch\.Tensor, got a DTensor"):
        run(lambda x, t: x.as_subclass(Placed), plan, x.to_local())

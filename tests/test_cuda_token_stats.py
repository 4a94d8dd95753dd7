"""The CUDA token_stats without a GPU: its code run on a model of the device, and what the compiler made of it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from compile_cache import SANITIZERS, compiled
from cuda_twin.token_stats import Call, run
from machine_code import MachineCode, tool
from test_token_stats import OPTIONS, call, draw_seeds, equal
from token_rows import Options, assert_right
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import token_stats

TWIN = Path(__file__).parent / "cuda_twin"
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
PART = 4096


@pytest.fixture(scope="session")
def twin() -> Path:
    checks = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    sources = [TWIN / name for name in ("token_stats_twin.cpp", "grid.cpp", "block.cpp")]
    return compiled(tool("g++"), "-std=c++17", "-Og", "-g1", *checks, *SANITIZERS, *sources, output="twin") / "twin"


def made(z: Tensor, options: Options, lot: int = 0, **more: Tensor) -> Call:
    arrays = {
        "current": torch.randint(-1, z.shape[2] + 1, z.shape[:2]),
        "seeds": draw_seeds(len(z)),
        "temperature": torch.full((len(z),), options.temperature, dtype=F64),
        **more,
    }
    return Call(z, arrays, None, options.top_k or 0, options.top_p or 1.0, options.exclude, lot)


def check(twin: Path, calls: list[Call], options: Options) -> list:
    reports = run(twin, calls)
    for one in calls:
        arrays = {name: one.arrays.get(name) for name in ("current", "seeds", "index", "positions")}
        assert_right(one.stats, one.logits, options, **arrays)
    return reports


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_every_mix_of_options(twin: Path, dtype: torch.dtype, name: str) -> None:
    options = OPTIONS[name]
    sizes = [n for n in (1, 9, 256, PART + 24) if n > len(options.exclude)]
    calls = [made((3 * torch.randn(1, 2, n)).to(dtype), options, lot=n) for n in sizes]
    for size, report in zip(sizes, check(twin, calls, options), strict=True):
        assert report["parts"] == -(-size // PART)
        filtered = (options.top_k or size) < size or options.top_p is not None
        assert report["cut"] == int(filtered)


def test_elements_read_one_by_one_give_the_same_bits(twin: Path) -> None:
    """Not aligned, or rows of a padded batch."""
    z, seeds = torch.randn(2, 2, 1000).half(), draw_seeds(2)
    views = [z, torch.cat([z.new_zeros(1), z.flatten()])[1:].view(z.shape), torch.cat([z, z[..., :1]], -1)[..., :-1]]
    current = torch.zeros(2, 2, dtype=torch.int64)
    calls = [made(given, OPTIONS["cold"], seeds=seeds, current=current) for given in views]
    assert [int(report["aligned"]) for report in check(twin, calls, OPTIONS["cold"])] == [1, 0, 0]
    assert all(equal(one.stats, calls[0].stats) for one in calls)


def test_a_row_has_the_same_bits_in_any_batch_whoever_goes_first(twin: Path) -> None:
    z, given = torch.randn(3, 2, PART + 100), {"seeds": draw_seeds(3), "current": torch.zeros(3, 2, dtype=torch.int64)}
    whole = made(z, OPTIONS["top_p"], **given)
    alone = [made(z[b : b + 1], OPTIONS["top_p"], b, **{k: v[b : b + 1] for k, v in given.items()}) for b in range(3)]
    check(twin, [whole, *alone], OPTIONS["top_p"])
    assert torch.equal(torch.cat([one.tokens for one in alone], 1), whole.tokens)
    assert torch.equal(torch.cat([one.numbers for one in alone], 1), whole.numbers)


def test_guidance_shift_and_rows_without_a_law(twin: Path) -> None:
    c, u = torch.randn(1, 4, 500), torch.randn(1, 4, 500)
    c[0, 0, 3], u[0, 0, 4], c[0, 1], c[0, 2, 7], c[0, 3, 9] = -math.inf, -math.inf, -math.inf, math.nan, math.inf
    current, guidance, shift = torch.full((1, 4), 5), torch.tensor([1.5], dtype=F64), torch.tensor([-2.0], dtype=F64)
    one = made(c, OPTIONS["plain"], current=current, guidance=guidance, shift=shift)
    one.uncond = u
    run(twin, [one])
    z = (u + 1.5 * (c - u)).masked_fill((c == -math.inf) | (u == -math.inf), -math.inf)
    z[..., 5] -= 2
    first = type(one.stats)(*(values[:, :1] for values in one.stats))
    assert_right(first, z[:, :1], OPTIONS["plain"], current[:, :1], one.arrays["seeds"])
    assert one.numbers[:, 0, 1:].isnan().all()
    assert not one.tokens[:, 0, 1:].count_nonzero()


REGISTERS = {"part": 80, "row": 128, "cut": 232}


@pytest.fixture(scope="module")
def built() -> MachineCode:
    return MachineCode("token_(?:part|row|cut)_kernel")


def test_every_kernel_is_there_within_its_registers(built: MachineCode) -> None:
    for (arch, name), used in built.registers.items():
        kind = re.search("token_(part|row|cut)_kernel", name)
        assert kind, name
        assert used <= REGISTERS[kind[1]], (arch, name)


def test_a_part_is_read_sixteen_bytes_at_a_time_and_no_number_is_summed_atomically(built: MachineCode) -> None:
    for (arch, name), instructions in built.instructions.items():
        assert not [op for op in instructions if re.match("ATOM|RED|LDL|STL", op)], (arch, name)
        if "part" in name:
            assert sum(re.match(r"LDG\..*\.128", op) is not None for op in instructions) >= 2, (arch, name)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 32, 126_464), (1, 64, 32_000)], ids=str)
@pytest.mark.parametrize("name", ["cold", "both"])
def test_on_a_device_in_a_graph(shape: tuple[int, ...], name: str) -> None:
    z, seeds, options = (2 * torch.randn(shape)).bfloat16(), draw_seeds(shape[0]), OPTIONS[name]
    assert_right(call("cuda", "cuda", z, seeds=seeds, **options._asdict()), z, options, None, seeds)
    given = {"seeds": seeds.cuda(), **options._asdict()}
    with fd.backend("cuda"):
        right, graph = token_stats(z.cuda(), **given), torch.cuda.CUDAGraph()
        logits = z.cuda()
        with torch.cuda.graph(graph):
            captured = token_stats(logits, **given)
    graph.replay()
    assert equal(captured, right)

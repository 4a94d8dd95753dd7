"""The CUDA gram without a GPU: its code run on a model of the device, and what the compiler made of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from compile_cache import SANITIZERS, compiled
from cuda_twin.gram import Call, run
from machine_code import MachineCode, tool
from test_gram import BASES, assert_right, draw

import fastdiff as fd
from fastdiff.ops import gram

TWIN = Path(__file__).parent / "cuda_twin"
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPES = [F32, F64, F16, BF16]


@pytest.fixture(scope="session")
def twin() -> Path:
    checks = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    sources = [TWIN / name for name in ("gram_twin.cpp", "grid.cpp", "block.cpp")]
    return compiled(tool("g++"), "-std=c++17", "-Og", "-g1", *checks, *SANITIZERS, *sources, output="twin") / "twin"


def basis_of(name: str) -> torch.Tensor:
    return torch.tensor(BASES[name], dtype=F64)


def check(twin: Path, calls: list[Call]) -> list:
    reports = run(twin, calls)
    for call, report in zip(calls, reports, strict=True):
        assert report["text"] == b""
        assert_right(call.out, call.tensors, call.basis.tolist())
    return reports


@pytest.mark.parametrize("name", BASES)
def test_every_mix_of_dtypes(twin: Path, name: str) -> None:
    basis, pairs = basis_of(name), list(itertools.product(DTYPES, DTYPES))
    calls = [Call(basis, draw(basis.shape[1], (2, 24), *pair)) for pair in pairs]
    for pair, call, report in zip(pairs, calls, check(twin, calls), strict=True):
        assert report["precision"] == (8 if F64 in [t.dtype for t in call.tensors] else 4), pair
        assert report["dense"]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 31, 1020, 1023, 1024, 1025, 1028, 2052])
def test_odd_sizes(twin: Path, n: int) -> None:
    calls = [Call(basis_of("three"), draw(3, (2, n), dtype)) for dtype in DTYPES]
    assert {int(report["dense"]) for report in check(twin, calls)} == {int(n % 4 == 0)}


def test_elements_read_one_by_one_give_the_same_bits(twin: Path) -> None:
    """Strided, not aligned, or samples of a padded batch."""
    tensors = draw(3, (3, 8, 72), F32, F16)
    views = [
        [t.repeat_interleave(2, -1)[..., ::2] for t in tensors],
        [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in tensors],
        [torch.cat([t.flatten(1), t.new_zeros(3, 1)], dim=1)[:, :-1].unflatten(1, (8, 72)) for t in tensors],
    ]
    calls = [Call(basis_of("three"), given) for given in (tensors, *views)]
    assert [int(report["dense"]) for report in check(twin, calls)] == [1, 0, 0, 0]
    assert all(torch.equal(call.out, calls[0].out) for call in calls)


def test_a_sample_has_the_same_bits_in_any_batch_whoever_goes_first(twin: Path) -> None:
    tensors = draw(3, (4, 3000), F32)
    whole = Call(basis_of("three"), tensors)
    alone = [Call(basis_of("three"), [t[b : b + 1] for t in tensors], lot=b + 1) for b in range(4)]
    check(twin, [whole, *alone])
    assert torch.equal(torch.cat([call.out for call in alone]), whole.out)


@pytest.mark.parametrize(("n", "rounds"), [(1 << 14, 1), (1 << 18, 4), (1 << 20, 8)])
def test_large_samples_take_more_rounds_and_small_ones_spread_over_the_machine(twin: Path, n: int, rounds: int) -> None:
    (report,) = check(twin, [Call(basis_of("difference"), draw(2, (1, n), F16))])
    assert report["rounds"] == rounds
    assert report["parts"] == -(-n // (1024 * rounds))
    assert report["parts"] >= 16


def test_a_basis_in_the_devices_memory(twin: Path) -> None:
    calls = []
    for name, dtype in itertools.product(BASES, (F32, F64)):
        basis = basis_of(name)
        turned = basis.mT.contiguous().mT
        tensors = draw(basis.shape[1], (2, 44), dtype)
        calls += [Call(basis, tensors), Call(basis, tensors, on_device=True), Call(turned, tensors, on_device=True)]
    check(twin, calls)
    for host, device, turned in zip(*[iter(calls)] * 3, strict=True):
        assert torch.equal(host.out, device.out)
        assert torch.equal(host.out, turned.out)


def test_what_has_no_weight_is_not_read(twin: Path) -> None:
    x, bad = torch.randn(2, 40), torch.full((2, 40), torch.nan)
    basis = torch.tensor([[0, 1, 0], [0, -0.5, 0]], dtype=F64)
    calls = [Call(basis, tensors, on) for tensors in ([bad, x, bad], [None, x, bad]) for on in (False, True)]
    run(twin, calls)
    for call in calls:
        assert_right(call.out, [None, x, None], basis.tolist())


def test_samples_without_elements_have_a_matrix_of_zeros(twin: Path) -> None:
    call = Call(basis_of("three"), [torch.zeros(3, 0)] * 3)
    run(twin, [call])
    assert not call.out.count_nonzero()


REGISTERS = {("f", False): 80, ("f", True): 104, ("d", False): 128, ("d", True): 128}  # compute type, dense


class Built(MachineCode):
    def __init__(self) -> None:
        super().__init__("gram_(?:part|sum)_kernel")


def kernel_of(mangled: str) -> tuple[str, int, bool]:
    """Compute type, vectors, and whether memory is dense."""
    code, vectors, dense = re.search(r"gram_part_kernelI([fd])Li(\d)ELb([01])E", mangled).groups()
    return code, int(vectors), dense == "1"


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


def test_every_kernel_is_there_within_its_registers(built: Built) -> None:
    found = Counter(arch for arch, _ in built.registers)
    assert set(found.values()) == {2 * 4 * 2 + 1}
    for (arch, name), used in built.registers.items():
        code, _, dense = kernel_of(name) if "part" in name else ("f", 0, False)
        assert used <= REGISTERS[code, dense], (arch, name)


def test_dense_memory_is_read_sixteen_bytes_at_a_time_two_rounds_at_once(built: Built) -> None:
    for (arch, name), instructions in built.instructions.items():
        if "part" not in name or not kernel_of(name)[2]:
            continue
        wide = sum(re.match(r"LDG\..*\.128", op) is not None for op in instructions)
        assert wide >= 12, (arch, name)  # of six tensors, in float32 or as two halves of float64


def test_no_number_is_summed_atomically_and_none_goes_to_local_memory(built: Built) -> None:
    for kernel, instructions in built.instructions.items():
        assert not [op for op in instructions if re.match("ATOM|RED|LDL|STL", op)], kernel


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (2, 16, 128, 128), (3, 16, 21, 60, 104)], ids=str)
def test_on_a_device_in_a_graph_with_the_basis_there(shape: tuple[int, ...]) -> None:
    tensors = [t.cuda() for t in draw(3, shape, F32, F16)]
    basis = basis_of("three")
    moved = basis.cuda()
    with fd.backend("cuda"):
        right = gram(tensors, basis)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = gram(tensors, moved)
    assert_right(right, [t.cpu() for t in tensors], BASES["three"])
    for _ in range(3):
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured, right)

"""The CUDA group_norm without a GPU: its plans for real shapes, what the compiler made of it, and its kernels run on a
model of the device, under sanitizers."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from compile_cache import SANITIZERS, compiled
from cuda_twin.group_norm import VALUES, Call, Chip, Report, run
from machine_code import ARCHES, MachineCode, tool
from test_group_norm import TOLERANCE, error, formula
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import group_norm

TWIN = Path(__file__).resolve().parent / "cuda_twin"

A100 = Chip(80, 108, 166912, 167936)
H100 = Chip(90, 132, 232448, 233472)
B200 = Chip(100, 148, 232448, 233472)
CHIPS = [A100, H100, B200]
DTYPES = list(TOLERANCE)
LAYOUTS = [False, True]

# [B, C, H, W] at 32 groups: Stable Diffusion 1.5 at 512 and 768, SDXL at 1024, ADM; the autoencoder's decoder.
U_NETS = [
    *[(2, c, 64, 64) for c in (320, 640, 960, 1280, 1920)],
    *[(2, c, 32, 32) for c in (320, 640, 960, 1280, 1920, 2560)],
    *[(2, c, 16, 16) for c in (640, 1280, 1920, 2560)],
    *[(2, c, 8, 8) for c in (1280, 2560)],
    *[(2, c, 96, 96) for c in (320, 640, 960)],
    *[(2, c, 48, 48) for c in (320, 640, 1920)],
    *[(2, c, 24, 24) for c in (640, 1280, 2560)],
    *[(2, c, 12, 12) for c in (1280, 2560)],
    *[(2, c, 128, 128) for c in (320, 640, 960)],
    *[(1, c, n, n) for c, n in ((256, 256), (512, 64), (1024, 8), (2048, 8))],
]
DECODER = [
    *[(1, 512, n, n) for n in (64, 128, 256, 512)],
    *[(1, 256, n, n) for n in (256, 512, 1024)],
    *[(1, 128, n, n) for n in (512, 1024)],
]


@pytest.fixture(scope="session")
def twin() -> Path:
    checks = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    sources = [TWIN / name for name in ("group_norm_twin.cpp", "grid.cpp", "block.cpp")]
    return compiled(tool("g++"), "-std=c++17", "-Og", "-g1", *checks, *SANITIZERS, *sources, output="twin") / "twin"


def plan(twin: Path, shapes: list, chip: Chip, dtype: torch.dtype, last: bool) -> dict[tuple, Report]:
    calls = [Call(chip, (b, c, h * w), 32, dtype, last) for b, c, h, w in shapes]
    return dict(zip(shapes, run(twin, calls), strict=True))


@pytest.mark.parametrize("last", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: f"sm_{chip.arch}")
def test_real_shapes_are_taken_sixteen_bytes_at_a_time_within_the_chip(
    twin: Path, chip: Chip, dtype: torch.dtype, last: bool
) -> None:
    for shape, p in plan(twin, U_NETS + DECODER, chip, dtype, last).items():
        assert p.width * dtype.itemsize == 16, shape
        assert p.shared <= chip.block_shared, shape
        assert p.parts <= 8 or p.form != "cluster", shape
        assert p.form != "cluster" or chip.arch >= 90, shape
        rows = shape[2] * shape[3] if last else shape[1] // 32 * shape[2] * shape[3] // p.width
        assert (p.parts - 1) * p.share < rows <= p.parts * p.share, shape


@pytest.mark.parametrize("last", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chip", [H100, B200], ids=lambda chip: f"sm_{chip.arch}")
def test_halves_of_a_unet_are_read_once_in_one_launch(twin: Path, chip: Chip, dtype: torch.dtype, last: bool) -> None:
    for shape, p in plan(twin, U_NETS, chip, dtype, last).items():
        assert p.form in ("alone", "cluster", "together"), shape


@pytest.mark.parametrize("chip", [H100, B200], ids=lambda chip: f"sm_{chip.arch}")
def test_halves_of_a_contiguous_decoder_are_read_once_by_two_teams_or_more(twin: Path, chip: Chip) -> None:
    """But for (1, 256, 1024, 1024), where two slabs of 16.8 MB do not fit on the machine."""
    for shape, p in plan(twin, DECODER, chip, torch.bfloat16, False).items():
        assert p.form in ("cluster", "together") or shape == (1, 256, 1024, 1024), shape
        assert p.form != "together" or p.teams >= 2, shape


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: f"sm_{chip.arch}")
def test_blocks_that_wait_for_each_other_are_all_on_the_machine(twin: Path, chip: Chip) -> None:
    """Three to a multiprocessor: their shared memory, and a kilobyte that each costs beside it."""
    waiting = 0
    for dtype, last in itertools.product(DTYPES, LAYOUTS):
        for shape, p in plan(twin, U_NETS + DECODER, chip, dtype, last).items():
            if p.form == "together":
                waiting += 1
                assert p.blocks == p.teams * p.parts <= 3 * chip.multiprocessors, shape
                assert 3 * (p.shared + 1024) <= chip.shared, shape
    assert waiting


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: f"sm_{chip.arch}")
def test_large_halves_fill_the_machine(twin: Path, chip: Chip) -> None:
    for last in LAYOUTS:
        for shape, p in plan(twin, U_NETS + DECODER, chip, torch.float16, last).items():
            if math.prod(shape) >= 1 << 21:
                assert p.blocks >= 0.45 * chip.multiprocessors, (shape, last)


@pytest.mark.parametrize("last", LAYOUTS)
def test_tensors_of_more_than_four_billion_elements_are_cut_into_parts_that_32_bits_count(
    twin: Path, last: bool
) -> None:
    shapes = [(1, 64, 1 << 27), (1 << 20, 64, 128), (3, 32, 1 << 30)]
    calls = [Call(H100, shape, 32, torch.float16, last) for shape in shapes]
    for c, p in zip(calls, run(twin, calls), strict=True):
        rows = c.shape[2] if last else c.shape[1] // 32 * c.shape[2] // p.width
        assert p.width == 8
        assert (p.parts - 1) * p.share < rows <= p.parts * p.share
        assert p.share < 2**31
        assert p.blocks < 2**31


# Chips that put small tensors into every form, for contiguous and for channels_last.
FORMS = {
    "alone": (Chip(80, 1, 1 << 20, 1 << 20), Chip(80, 1, 1 << 20, 1 << 20)),
    "cluster": (H100, H100),
    "together": (Chip(80, 12, 8000, 3 * 9024), Chip(80, 12, 28000, 3 * 29024)),
    "twice": (Chip(80, 4, 1024, 4096), Chip(80, 4, 1024, 4096)),
}
BODY, GROUPS = (1, 40, 544), 4


def call(
    form: str, dtype: torch.dtype, last: bool, shape: tuple = BODY, groups: int = GROUPS, act: str = "silu", **given
) -> Call:
    """A call in that form on random x, and on all the per-channel values but those given, into y of NaN."""
    b, c, _ = shape
    x = given.pop("x", None)
    x = torch.randn(shape).to(dtype) if x is None else x
    x = x.transpose(1, 2).contiguous() if last else x
    values = {name: torch.randn((c,) if name in ("weight", "bias") else (b, c)) for name in VALUES}
    values = given.pop("values", values)
    return Call(FORMS[form][last], shape, groups, dtype, last, x, torch.full_like(x, math.nan), values, act, **given)


def outcome(c: Call) -> tuple[Tensor, Tensor]:
    """y as [B, C, P], and what it should be."""
    x, y = (t.transpose(1, 2) if c.last else t for t in (c.x, c.y))
    channels = c.shape[1]
    affine = {"weight": torch.ones(channels), "bias": torch.zeros(channels)}
    return y, formula(c.groups, c.act, x, **(affine | c.values))


def check(twin: Path, calls: list[Call]) -> list[Report]:
    reports = run(twin, calls)
    for c, report in zip(calls, reports, strict=True):
        assert report.text == ""
        y, expected = outcome(c)
        assert error(y, expected) <= TOLERANCE[c.dtype], (c.shape, c.groups, c.dtype, c.last, report.form)
    return reports


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last", LAYOUTS)
def test_every_form_equals_the_formula_at_every_group_width(twin: Path, form: str, last: bool) -> None:
    halves = itertools.cycle([(torch.float16, 432), (torch.bfloat16, 440)])
    calls = [
        call(form, dtype, last, (1, groups * width, positions), groups, lot=width)
        for width, groups in ((10, 8), (20, 4), (30, 8), (40, 2), (60, 4), (80, 1))
        for dtype, positions in (next(halves), (torch.float32, 216))
    ]
    for c, report in zip(calls, check(twin, calls), strict=True):
        assert report.width * c.dtype.itemsize == 16
        assert report.form == form, c.shape


# B, C, P, groups: odd sizes, a group in one element, groups that are no packet, wider than a block, or all of C.
ODD = [(1, 6, 11, 3), (3, 12, 1, 4), (2, 7, 35, 7), (1, 320, 35, 32), (2, 8, 1, 8), (1, 1030, 9, 2), (1, 2600, 3, 1),
       (2, 40, 24, 1), (1, 4104, 8, 2), (5, 24, 50, 24)]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_shapes(twin: Path, form: str, dtype: torch.dtype) -> None:
    check(twin, [call(form, dtype, last, (b, c, p), groups) for b, c, p, groups in ODD for last in LAYOUTS])


@pytest.mark.parametrize("form", FORMS)
def test_the_result_does_not_depend_on_who_goes_first(twin: Path, form: str) -> None:
    for last in LAYOUTS:
        first = call(form, torch.float32, last)
        others = [replace(first, y=torch.full_like(first.y, math.nan), lot=lot) for lot in (1, 2)]
        assert {report.form for report in run(twin, [first, *others])} == {form}
        assert all(torch.equal(first.y, other.y) for other in others)


def test_values_of_any_dtype_and_row_stride(twin: Path) -> None:
    """Slices of wider embeddings, expanded rows, double precision."""
    b, c, p = 2, 40, 264
    values = {
        "weight": torch.randn(c).double(),
        "bias": torch.randn(c + 1).half()[1:],
        "add": torch.randn(b, 3 * c).bfloat16()[:, c : 2 * c],
        "scale": torch.randn(1, c).expand(b, c),
        "shift": torch.randn(b, c + 3).half()[:, 2 : c + 2],
    }
    check(twin, [call(form, torch.float16, last, (b, c, p), values=values) for form in FORMS for last in LAYOUTS])
    each = [{}, *({name: values[name]} for name in values)]
    check(twin, [call("alone", torch.float32, last, (b, c, 24), act=act, values=given)
                 for given in each for last in LAYOUTS for act in ("none", "silu")])  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_large_means_keep_the_digits_of_the_variance(twin: Path, form: str) -> None:
    """x + add as float32 holds them: its spacing, beside a deviation of 1."""
    for last, mean in itertools.product(LAYOUTS, (1000, -30000)):
        x, add = torch.randn(BODY) + mean, torch.randn(1, 40) * 100
        c = call(form, torch.float32, last, act="none", x=x, values={"add": add})
        run(twin, [c])
        y, expected = outcome(c)
        assert error(y, expected) <= abs(mean) * 2.0**-24, (last, mean)


@pytest.mark.parametrize("form", FORMS)
def test_an_embedding_on_constants_keeps_its_digits(twin: Path, form: str) -> None:
    """x that is one number, and x whose channels the embedding cancels, so that only the bias is left."""
    bias, flat = torch.randn(40), torch.full(BODY, 1000.0)
    whole = torch.randint(-200, 200, (1, 40)).float()
    cancelled = {"bias": bias, "add": torch.arange(GROUPS).repeat_interleave(10) - whole}
    for last in LAYOUTS:
        small = [call(form, torch.float32, last, act="none", x=flat, values={"add": s * torch.randn(1, 40)})
                 for s in (1.0, 3e-3, 1e-6)]  # fmt: skip
        none = call(form, torch.float32, last, act="none", x=whole[..., None].repeat(1, 1, 544), values=cancelled)
        alone = call(form, torch.float32, last, (1, 40, 544), 40, "none", x=flat, values={"add": torch.randn(1, 40)})
        check(twin, [*small, none])
        assert torch.equal(outcome(none)[0], bias.view(1, 40, 1).expand(BODY))
        run(twin, [alone])
        assert not outcome(alone)[0].count_nonzero()


@pytest.mark.parametrize("form", FORMS)
def test_a_first_element_far_from_all_others(twin: Path, form: str) -> None:
    x = torch.randn(BODY)
    x[:, ::10, 0] = 1e5
    check(twin, [call(form, torch.float32, last, act="none", x=x) for last in LAYOUTS])


@pytest.mark.parametrize("form", FORMS)
def test_constants_the_largest_halves_and_numbers_that_are_none(twin: Path, form: str) -> None:
    bias = {"bias": torch.randn(40)}
    for last in LAYOUTS:
        flat = call(form, torch.float32, last, x=torch.full(BODY, 3.0), values=bias)
        edge = call(form, torch.float16, last, x=(torch.randn(BODY).sign() * 65504).half(), values=bias)
        check(twin, [flat, edge])
        x = torch.randn(BODY)
        x[0, 15, 3], x[0, 39, 543] = math.nan, math.inf
        bad = call(form, torch.float32, last, x=x, values=bias)
        run(twin, [bad])
        groups = outcome(bad)[0].isnan().reshape(GROUPS, -1)
        assert groups.all(1).tolist() == groups.any(1).tolist() == [False, True, False, True]


REGISTERS = 80  # of a kernel at most, so that a multiprocessor's 65536 serve three blocks of 256 threads


def kernel_of(mangled: str) -> tuple[str, str, bool]:
    """Its name, how it accesses elements, and whether it is for channels_last."""
    kernel, access, last = re.search(r"(resident|statistics|output)_kernelI(.*?)Lb([01])E", mangled).groups()
    return kernel, "narrow" if "Narrow" in access else "wide", last == "1"


class Built(MachineCode):
    def __init__(self) -> None:
        super().__init__("group_norm")

    def kernels(self):
        """(place for a message, kernel, access, channels_last, count of the instructions that match) for each."""
        for (arch, name), instructions in self.instructions.items():
            yield (arch, *kernel_of(name)), partial(count, instructions)


def count(instructions: list[str], pattern: str) -> int:
    return sum(re.match(pattern, op) is not None for op in instructions)


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


def test_every_kernel_is_there_and_leaves_room_for_three_blocks(built: Built) -> None:
    arches = {arch for arch, _ in built.registers}
    assert arches >= set(ARCHES)
    assert len(built.registers) == 3 * 4 * 2 * len(arches)
    for (arch, name), used in built.registers.items():
        assert used <= REGISTERS, (arch, kernel_of(name))


def test_nothing_goes_to_local_memory(built: Built) -> None:
    for where, count in built.kernels():
        assert count("LDL|STL") == 0, where


def test_elements_travel_sixteen_bytes_at_a_time(built: Built) -> None:
    """To shared memory without a stop in registers, or two loads or more in flight; and in stores of the same width."""
    for where, count in built.kernels():
        _, kernel, access, last = where
        if access == "wide":
            ahead = {"resident": 0, "statistics": 4, "output": 2 if last else 4}[kernel]
            assert count(r"LDG\..*\.128") >= ahead, where
            assert (count(r"LDGSTS\..*\.128") > 0) == (kernel == "resident"), where
            assert kernel == "statistics" or count(r"STG\..*\.128") > 0, where


def test_blocks_meet_in_clusters_from_sm_90_on(built: Built) -> None:
    for where, count in built.kernels():
        arch, kernel, *_ = where
        assert (count("UCGABAR_ARV") > 0) == (kernel == "resident" and arch != "sm_80"), where


def test_no_number_is_summed_atomically(built: Built) -> None:
    for where, count in built.kernels():
        assert count("ATOM|RED") == 0, where


# A shape for each form on an H100.
ON_DEVICE = [(2, 1280, 8, 8), (2, 320, 64, 64), (1, 512, 256, 256), (1, 256, 1024, 1024)]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", ON_DEVICE, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_on_a_device_every_form_is_right_the_same_each_time_and_in_a_graph(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    b, c = shape[:2]
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=memory_format)
    given = {name: torch.randn(c, device="cuda") for name in ("weight", "bias")}
    given |= {name: torch.randn(b, c, device="cuda") for name in ("add", "scale", "shift")}

    def call() -> Tensor:
        return group_norm(x, 32, act="silu", **given)

    with fd.backend("cuda"):
        y, again = call(), call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call()
    assert error(y, formula(32, "silu", x, **given)) <= TOLERANCE[torch.bfloat16]
    assert torch.equal(y, again)
    for _ in range(3):
        captured.fill_(math.nan)
        graph.replay()
        assert torch.equal(y, captured)

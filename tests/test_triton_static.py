"""Triton kernels compiled for devices that are not there: what they need, and what they are specialised on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import aot

from fastdiff.ops import make_row
from fastdiff.ops.triton import solver_step as triton_solver_step
from fastdiff.plans.table import ROW

LATENT = (2, 16, 64, 64)
F32, F64, F16 = torch.float32, torch.float64, torch.float16


def meta(dtype: torch.dtype = F32, shape: tuple[int, ...] = LATENT) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launch(
    row: dict, *, state: torch.dtype = F32, model: torch.dtype = F32, history: int = 0, base: bool = False,
    guided: bool = False, copies: int = 0, shape: tuple[int, ...] = LATENT, sets: int = 0, others: int = 0,
    keeps: bool = False,
) -> aot.Launch:  # fmt: skip
    """The launch of one row on dense tensors; seeds are given where it draws noise."""
    table = np.array(make_row(**{"p_x": 1.1, "p_m": -0.5, "a_x": 0.8, "A": [0.2] * (history + 1), **row})).view(ROW)
    x = meta(state, shape)
    return capture(
        table, 0, x, meta(state, shape) if base else x, meta(model, shape), meta(model, shape) if guided else None,
        [meta(state, shape)] * history, None, None, meta(torch.int64, shape[:1]), meta(state, shape),
        meta(state, shape) if base else None, meta(state, shape),
        meta(model, (copies * shape[0], *shape[1:])) if copies else None,
        *weighted(sets, [meta(model, shape)] * others, meta(state, shape) if keeps else None, x),
    )  # fmt: skip


def weighted(sets: int, others: list[torch.Tensor], state: torch.Tensor | None, x: torch.Tensor) -> tuple:
    """The end of a call with so many sets of weights; none without."""
    return (others, state, meta(F64, (len(x), sets, 6)), x if sets == 3 else None) if sets else ()


def capture(*arguments: object) -> aot.Launch:
    return aot.captured(triton_solver_step, functools.partial(triton_solver_step.run, *arguments))


# name: (launch, 128-bit loads and stores of eight elements a thread, registers on NVIDIA, on AMD)
KERNELS: dict[str, tuple[Callable[[], aot.Launch], int, int, int, int]] = {
    "multistep_2": (lambda: launch({}, history=1), 6, 4, 40, 48),
    "unipc_4": (
        lambda: launch({"a_base": 0.1, "b_base": 0.3, "b_x": 0.2, "B": [0.1] * 4}, history=3, base=True), 12, 6, 64, 80,
    ),
    "sde": (lambda: launch({"xi_a": [0.5], "noise": [3]}, history=1), 6, 4, 48, 64),
    "half_guided": (
        lambda: launch({"guidance": 7.5, "clamp": 1.0, "c_in": 0.9}, state=F16, model=F16, history=1, guided=True,
                       copies=2), 4, 4, 48, 48,
    ),
    "mixed_guided": (lambda: launch({"guidance": 7.5}, model=F16, history=1, guided=True, copies=2), 6, 6, 48, 64),
    "float64_sde": (
        lambda: launch({"xi_a": [0.5], "noise": [3]}, state=F64, model=F64, history=1), 12, 8, 128, 128,
    ),
}  # fmt: skip


# Those that need the most registers on every target.
ON_NVIDIA = [
    *(("unipc_4", target) for target in ("sm_80", "sm_90", "sm_100")),
    *(("float64_sde", target) for target in ("sm_80", "sm_90", "sm_100")),
    ("multistep_2", "sm_80"), ("sde", "sm_90"), ("half_guided", "sm_100"), ("mixed_guided", "sm_90"),
]  # fmt: skip


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "target"), ON_NVIDIA)
def test_nvidia_kernels_keep_their_budget(name: str, target: str) -> None:
    make, loads, stores, registers, _ = KERNELS[name]
    binary = aot.compiled(make(), target)
    assert binary.registers <= registers
    assert binary.stack == 0
    assert (binary.count(r"LDG\.E(\.\w+)*\.128.*"), binary.count(r"STG\.E(\.\w+)*\.128.*")) == (loads, stores)
    # Besides these vectors only a seed, 64 bits, may be loaded: no operand that is absent, no scalar access.
    assert binary.count("LDG.*") - loads == int(name.endswith("sde"))
    assert binary.count("STG.*") == stores


@pytest.mark.compiles
@pytest.mark.parametrize("name", KERNELS)
def test_amd_kernels_keep_their_budget(name: str) -> None:
    make, loads, stores, _, registers = KERNELS[name]
    binary = aot.compiled(make(), "gfx942")
    assert binary.registers <= registers
    assert binary.stack == 0
    assert (binary.count("global_load_dwordx4"), binary.count("global_store_dwordx4")) == (loads, stores)
    assert binary.count("global_load_.*") == loads
    assert binary.count("global_store_.*") == stores


# name: (launch, 128-bit loads, weights loaded, 128-bit stores, registers on NVIDIA, on AMD)
WEIGHTED: dict[str, tuple[Callable[[], aot.Launch], int, int, int, int, int]] = {
    "two_outputs": (lambda: launch({}, history=1, guided=True, sets=1), 8, 3, 4, 48, 64),
    "half_outputs": (
        lambda: launch({"c_in": 0.9}, model=F16, history=1, guided=True, sets=1, copies=3), 6, 3, 7, 56, 64,
    ),
    "momentum": (lambda: launch({}, history=1, guided=True, sets=3, keeps=True), 10, 12, 6, 64, 80),
    "everything": (
        lambda: launch({"clamp": 2.0}, history=1, guided=True, sets=3, others=2, keeps=True), 14, 18, 6, 96, 112,
    ),
}  # fmt: skip


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("two_outputs", "sm_80"),
        ("half_outputs", "sm_90"),
        ("half_outputs", "gfx942"),
        ("momentum", "sm_100"),
        *(("everything", target) for target in aot.TARGETS),
    ],
)
def test_weighted_kernels_keep_their_budget(name: str, target: str) -> None:
    make, loads, weights, stores, registers, on_amd = WEIGHTED[name]
    binary = aot.compiled(make(), target)
    assert binary.stack == 0
    if target.startswith("gfx"):
        assert binary.registers <= on_amd
        assert 0 <= binary.count("global_load_dwordx4") - loads <= weights // 2  # two weights may come in one
        assert binary.count("global_store_dwordx4") == stores
        return
    assert binary.registers <= registers
    assert (binary.count(r"LDG\.E(\.\w+)*\.128.*"), binary.count(r"STG\.E(\.\w+)*\.128.*")) == (loads, stores)
    assert binary.count("LDG.*") - loads <= weights
    assert binary.count("STG.*") == stores


def test_without_weights_a_call_of_eighteen_arguments_is_the_same_launch() -> None:
    table, x = np.array(make_row(p_m=-0.5, A=[0.2])).view(ROW), meta()
    plain = (table, 0, x, x, x, x, [], None, None, None, x, None, x, None)
    assert capture(*plain) == capture(*plain, [], None, None, None)


@pytest.mark.compiles
@pytest.mark.parametrize("row", [{}, {"xi_a": [0.5]}], ids=["ode", "sde"])
def test_latents_of_odd_sizes_are_moved_in_vectors_too(row: dict) -> None:
    binary = aot.compiled(launch(row, copies=2, shape=(3, 4, 85, 125)), "sm_90")
    assert binary.count(r"LDG\.E\.128.*") == 2 * 2
    assert binary.count("STG.*") == binary.count(r"STG\.E\.128.*") == 2 * 4


@pytest.mark.compiles
def test_each_philox_call_serves_four_elements() -> None:
    binary = aot.compiled(launch({"xi_a": [0.5], "noise": [3]}), "sm_90")
    calls = 8 // 4  # eight elements a thread
    assert binary.count(r"IMAD\.(WIDE|HI)\.U32.*") <= calls * 10 * 2
    assert binary.count("LDS.*|STS.*|SHFL.*") == 0
    assert binary.count(r"MUFU\.LG2.*|MUFU\.(SIN|COS).*") == 0, "the hardware's log, sin and cos are not accurate"


def test_rows_of_one_structure_share_one_compilation() -> None:
    first = launch({"xi_a": [0.5], "noise": [3]}, history=1)
    assert first == launch({"xi_a": [1.0], "noise": [2.0**32 - 1], "a_x": 1.0, "p_x": 0.0}, history=1)
    assert first == launch({"xi_a": [16.0], "noise": [1], "A": [1e-9, 16.0]}, history=1)
    whole = launch({}, state=F64)
    assert whole == launch({"p_x": 1.0, "p_m": 2.0**-1040, "A": [1.0]}, state=F64)


def test_a_batch_of_another_size_shares_the_compilation() -> None:
    assert launch({}, shape=(2, 4, 64, 64)) == launch({}, shape=(3, 4, 96, 64))


def views() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """x and its outputs, m and m_uncond that need no copy and are walked as one dimension."""
    x, last = meta(), meta().to(memory_format=torch.channels_last)
    halves = meta(F16, (4, *LATENT[1:])).chunk(2)
    learned_variance = [meta(F16, (2, 32, 64, 64))[:, :16] for _ in range(2)]
    batch_sliced = meta(F32, (4, *LATENT[1:]))[::2]
    return {
        "channels_last": (last, last, last),
        "guidance_halves": (x, *halves),
        "batch_sliced": (batch_sliced, x, x),
        "channel_sliced_model_output": (x, *learned_variance),
    }


@pytest.mark.parametrize("name", views())
def test_common_layouts_are_walked_as_one_dimension(name: str) -> None:
    x, m, m_uncond = views()[name]
    table = np.array(make_row(p_x=1.1, p_m=-0.5, a_x=0.8, A=[0.2])).view(ROW)
    for guidance in (None, meta(F64, (2,))):
        found = capture(table, 0, x, x, m, m_uncond, [], guidance, None, None, x, None, x, None)
        assert found.constants["DIMS"] == 1
        assert not found.constants["WIDE"]


@pytest.mark.compiles
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_offsets_past_32_bits_and_three_dimensions_compile(target: str) -> None:
    shape = (2, 64, 48, 512, 2048)
    x = meta(F16, shape)
    m = meta(F16, (2, 48, 2048, 64, 512)).permute(0, 3, 1, 4, 2)
    table = np.array(make_row(p_x=1.1, p_m=-0.5, a_x=0.8, A=[0.2], xi_a=[0.3])).view(ROW)
    wide = capture(table, 0, x, x, m, None, [], None, None, meta(torch.int64, (2,)), x, None, x, None)
    assert wide.constants["WIDE"]
    assert aot.compiled(wide, target).stack == 0

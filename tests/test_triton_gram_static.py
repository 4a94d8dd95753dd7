"""gram in Triton compiled for devices that are not there: launches, registers, stack, vectors."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

import aot
from test_gram import BASES

from fastdiff.ops.triton import gram as triton_gram

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
LATENT = (2, 16, 64, 64)
# Of four warps (AMD: two of 64 threads), by basis: the tensors that are read, and the most registers.
NVIDIA_REGISTERS = {"one": (1, 64), "difference": (2, 80), "three": (3, 128), "four": (5, 192)}
SM_100_REGISTERS = NVIDIA_REGISTERS | {"three": (3, 136), "four": (5, 248)}
AMD_REGISTERS = {"one": (1, 96), "difference": (2, 96), "three": (3, 128), "four": (5, 256)}
# sm_100 needs the most registers.
ON_NVIDIA = [
    ("one", BF16, "sm_80"), ("one", F32, "sm_100"), ("difference", F32, "sm_90"), ("difference", BF16, "sm_100"),
    ("three", BF16, "sm_80"), ("three", F32, "sm_100"), ("four", F32, "sm_90"), ("four", F32, "sm_100"),
    ("four", BF16, "sm_100"),
]  # fmt: skip
ELEMENTS = triton_gram.BLOCK * triton_gram.TILES // 128  # of each tensor, a thread


def launches(
    name: str, *, dtype: torch.dtype = F32, shape: tuple[int, ...] = LATENT, on_device: bool = False
) -> list[aot.Launch]:
    """The products of the parts, and their sum."""
    basis = torch.tensor(BASES[name], dtype=F64)
    tensors = [torch.empty(shape, dtype=dtype, device="meta") for _ in BASES[name][0]]
    out = torch.empty((shape[0], len(basis) + 1, len(basis) + 1), dtype=F64, device="meta")
    basis = basis.to("meta") if on_device else basis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_gram, "_is_on_device", lambda basis: on_device)
        return aot.all_captured(triton_gram, lambda: triton_gram.run(basis, tensors, out))


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "dtype", "target"), ON_NVIDIA, ids=str)
def test_nvidia_kernels_keep_their_budget(name: str, dtype: torch.dtype, target: str) -> None:
    """Only what the basis reads is loaded, 16 bytes at a time, and one number a product is stored."""
    tensors, registers = (SM_100_REGISTERS if target == "sm_100" else NVIDIA_REGISTERS)[name]
    binary = aot.compiled(launches(name, dtype=dtype)[0], target)
    vectors, n = len(BASES[name]), tensors * ELEMENTS * dtype.itemsize // 16
    assert binary.stack == 0
    assert binary.registers <= registers
    assert binary.count(r"LDG\.E(\.\w+)*\.128.*") == binary.count("LDG.*") == n
    assert binary.count("STG.*") == vectors * (vectors + 3) // 2
    assert binary.count("ATOM.*|RED.*") == 0


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "dtype"), list(zip(BASES, [F32, BF16] * 2, strict=True)), ids=str)
def test_amd_kernels_keep_their_budget(name: str, dtype: torch.dtype) -> None:
    tensors, registers = AMD_REGISTERS[name]
    binary = aot.compiled(launches(name, dtype=dtype)[0], "gfx942")
    assert binary.stack == 0
    assert binary.registers <= registers
    assert binary.count("(global|buffer)_load_dwordx4") == tensors * ELEMENTS * dtype.itemsize // 16


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("form", "targets"),
    [
        ({"dtype": F64}, ("sm_100", "gfx942")),
        ({"on_device": True}, ("sm_80", "gfx942")),
        ({"shape": (3, 4, 85, 125)}, ("sm_90", "gfx942")),
        ({"shape": (2, 64, 512, 65536)}, ("sm_90", "sm_100")),
    ],
    ids=["float64", "basis_on_the_device", "odd_sizes", "offsets_past_32_bits"],
)
def test_other_forms_compile_without_a_stack(form: dict, targets: tuple[str, ...]) -> None:
    """And the sum of the parts."""
    for launch, target in itertools.product(launches("three", **form), targets):
        assert aot.compiled(launch, target).stack == 0


def test_bases_of_one_structure_and_latents_of_one_kind_share_one_compilation() -> None:
    first = launches("difference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "difference", [[0.5, 16.0], [1e-9, 0]])
        assert launches("difference") == first
    assert launches("difference", shape=(3, 4, 96, 64)) == first
    assert launches("difference", shape=(1, 16, 21, 60, 104)) == first

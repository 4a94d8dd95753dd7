"""Fresh random inputs in every run, the seed shown where a test fails; the backends a test is run over."""

from __future__ import annotations

import os
import random
import types
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

# A module with `OP = "<name>"` has each test that takes `backend` run over these, or over its own `BACKENDS`.
BACKENDS = {
    "solver_step": ("reference", "cpu", "triton", "cuda"),
    "group_norm": ("reference", "torch", "cpu", "triton", "cuda"),
    "attention": ("reference", "torch", "cpu", "triton", "cuda"),
}
ON_GPU = ("triton", "cuda")
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
SEED = int(os.environ.get("FASTDIFF_TEST_SEED") or random.SystemRandom().randrange(2**31))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        from instruction_sets import ISAS

        metafunc.parametrize("isa", ISAS, indirect=True)
    if "backend" not in metafunc.fixturenames:
        return
    names = ("triton",) if INTERPRETING else getattr(metafunc.module, "BACKENDS", None) or BACKENDS[metafunc.module.OP]
    marks = {name: pytest.mark.gpu for name in ON_GPU if not INTERPRETING}
    metafunc.parametrize("backend", [pytest.param(name, marks=marks.get(name, ())) for name in names])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "k_diffusion" in item.fixturenames:
            item.add_marker(pytest.mark.k_diffusion)
    if INTERPRETING:
        items[:] = [item for item in items if "backend" in item.fixturenames]
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seeds every generator from the run's seed and the test's name; captured output shows it where a test fails."""
    value = (SEED + zlib.crc32(request.node.nodeid.encode())) % 2**31
    print(f"run again with FASTDIFF_TEST_SEED={SEED}")
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def k_diffusion() -> types.ModuleType:
    """k_diffusion.sampling; the test is skipped where it is not installed."""
    from peers import k_diffusion_sampling

    return k_diffusion_sampling()


@pytest.fixture
def double() -> Iterator[None]:
    """k-diffusion makes its tolerances and times in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def device(backend: str) -> str:
    return "cuda" if backend in ON_GPU and not INTERPRETING else "cpu"


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each instruction set that this machine has."""
    from fastdiff.ops.native import _C

    best = _C.build_info()["isa"]
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(best)


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that change torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

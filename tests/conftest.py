"""Fresh random inputs in every run, the seed shown where a test fails; the backends a test is run over; the markers
that can be derived; the whole suite on all cores. README.md has the map."""

from __future__ import annotations

import functools
import os
import random
import sys
import types
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# examples/ and bench/ are not installed. Last, since the checkout's fastdiff may not be built.
sys.path.append(str(Path(__file__).parents[1]))

# A module with `OP = "<name>"` has each test that takes `backend` run over these, or over its own `BACKENDS`.
BACKENDS = {
    "solver_step": ("reference", "cpu", "triton", "cuda"),
    "solver_step_rows": ("reference", "cpu", "triton", "cuda"),
    "gram": ("reference", "cpu", "triton", "cuda"),
    "group_norm": ("reference", "torch", "cpu", "triton", "cuda"),
    "attention": ("reference", "torch", "cpu", "triton", "cuda"),
    "token_stats": ("reference", "cpu", "triton", "cuda"),
}
ON_GPU = ("triton", "cuda")
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # a hundred times slower than a device: fewer cases there
SEED = int(os.environ.get("FASTDIFF_TEST_SEED") or random.SystemRandom().randrange(2**31))
os.environ["FASTDIFF_TEST_SEED"] = str(SEED)  # for the processes that the suite is divided among
COMPILING = {"twin", "built", "sass"}  # fixtures
MOST_PROCESSES = 8  # of about a gigabyte each

# How long an example takes says how busy the machine is.
UNTIMED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("suite", deadline=None, suppress_health_check=UNTIMED)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """hypothesis has the run's seed, and the whole suite all cores, unless told otherwise or the output is wanted."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # a process of a divided suite comes here too, and so does a pytest that one of its tests starts
    option = config.option
    if getattr(option, "hypothesis_seed", SEED) is None:
        option.hypothesis_seed = SEED
    unset = getattr(option, "numprocesses", 0) is None and option.dist == "no"  # and there is pytest-xdist
    whole = {Path(config.invocation_params.dir, arg).resolve() for arg in config.args} == {Path(__file__).parent}
    if unset and whole and not (option.usepdb or option.collectonly or option.capture == "no"):
        cores = os.cpu_count() or 1
        option.numprocesses, option.dist = min(cores, MOST_PROCESSES), "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // option.numprocesses)))


def pytest_report_header() -> str:
    return f"FASTDIFF_TEST_SEED={SEED}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames and not INTERPRETING:  # whose processes may have no _C
        from instruction_sets import ISAS

        metafunc.parametrize("isa", ISAS, indirect=True)
    if "backend" not in metafunc.fixturenames:
        return
    names = ("triton",) if INTERPRETING else getattr(metafunc.module, "BACKENDS", None) or BACKENDS[metafunc.module.OP]
    marks = {name: pytest.mark.gpu for name in ON_GPU if not INTERPRETING}
    metafunc.parametrize("backend", [pytest.param(name, marks=marks.get(name, ())) for name in names])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not {"k_diffusion", "comfyui"}.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.peers)
        if not COMPILING.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.compiles)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if INTERPRETING:
        items[:] = [item for item in items if "backend" in item.fixturenames]
    _longest_first(items)


def _longest_first(items: list[pytest.Item]) -> None:
    """Files that have a long test, then the others, so that no process ends long after the rest."""
    files = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("compiles")}
    items.sort(key=lambda item: item.path not in files)


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seeds every generator from the run's seed and the test's name; captured output shows it where a test fails."""
    value = (SEED + zlib.crc32(request.node.nodeid.encode())) % 2**31
    print(f"run again with FASTDIFF_TEST_SEED={SEED}")
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="module")
def short_search() -> Iterator[None]:
    """Forward fits that try little, in a whole module."""
    from mixtures import shorten_search

    with pytest.MonkeyPatch.context() as patch:
        shorten_search(patch)
        yield


@pytest.fixture(scope="module")
def short_fits(short_search: None) -> Iterator[None]:
    """The same with few plans of the catalogue and one that may count as converged."""
    from mixtures import shorten_catalogue

    with pytest.MonkeyPatch.context() as patch:
        shorten_catalogue(patch)
        yield


@pytest.fixture(scope="session")
def k_diffusion() -> types.ModuleType:
    """k_diffusion.sampling; the test is skipped where it is not installed."""
    from peers import k_diffusion_sampling

    return k_diffusion_sampling()


@pytest.fixture(scope="session")
def comfyui() -> types.ModuleType:
    """ComfyUI's comfy.k_diffusion.sampling; the test is skipped where ComfyUI is not on the path."""
    from peers import comfyui_sampling

    return comfyui_sampling()


@pytest.fixture(params=["stand-in", pytest.param("ComfyUI", marks=pytest.mark.peers)])
def comfy_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """What runs guided samplers: a stand-in for ComfyUI, and ComfyUI itself where it is on the path."""
    from comfy_guiders import Real, StandIn

    return StandIn(monkeypatch) if request.param == "stand-in" else Real()


@pytest.fixture(params=["stand-in", pytest.param("ComfyUI", marks=pytest.mark.peers)])
def comfy_modules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """What nodes run in: a stand-in for ComfyUI's modules, and ComfyUI itself where it is on the path."""
    from comfy_modules import RealModules, StandInModules

    return (StandInModules if request.param == "stand-in" else RealModules)(monkeypatch, tmp_path)


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


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often accelerated modules call fastdiff's ops, which serve small calls too in this test."""
    from fastdiff import backend
    from fastdiff.patch import attention_functions, attention_masks, norms

    found: Counter[str] = Counter()

    def count(name: str, op: Callable[..., object], *args: object, **options: object) -> object:
        found[name] += 1
        return op(*args, **options)

    for module, name in ((attention_functions, "attention"), (attention_masks, "attention"), (norms, "group_norm")):
        monkeypatch.setattr(module, name, functools.partial(count, name, getattr(module, name)))
    monkeypatch.setattr(norms, "_SMALL", {"none": 0, "silu": 0})
    with backend("reference"):
        yield found

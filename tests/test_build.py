"""setup.py and the wheels it makes. Nothing here uses the network."""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from machine_code import run, tool

from fastdiff.ops import registry

pytestmark = pytest.mark.slow  # a second or two for each wheel

ROOT = Path(__file__).parents[1]
PROSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "constraints.txt", "mkdocs.yml", *PROSE)
FOLDERS = ("csrc", "fastdiff", "tests", "bench", "docs")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"

# Extension modules that compile at once, in the place of csrc's.
WHOLE = """
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
"""
WITHOUT_ITS_ENTRY = "int nothing;"
WITHOUT_ITS_KERNEL = f"extern int kernel();\n{WHOLE.replace('return', 'return kernel() ? nullptr :')}"


def copy(target: Path) -> Path:
    """What a checkout holds, so that a build leaves nothing in this one."""
    for name in FILES:
        shutil.copy(ROOT / name, target)
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", ".*")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=unwanted)
    return target


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """The source distribution, unpacked."""
    target = tmp_path_factory.mktemp("sdist")
    done = build(source, target, "build_sdist")
    assert done.returncode == 0, done.stdout
    (packed,) = target.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(target)
    return packed.with_name(packed.name.removesuffix(".tar.gz"))


@pytest.fixture
def hollow(tmp_path: Path) -> Path:
    """A checkout whose csrc holds one file, module.cpp, with nothing in it yet."""
    target = tmp_path / "hollow"
    target.mkdir()
    copy(target)
    shutil.rmtree(target / "csrc")
    (target / "csrc").mkdir()
    (target / "csrc" / "module.cpp").touch()
    return target


def build(source: Path, target: Path, hook: str = "build_wheel", **environment: str) -> subprocess.CompletedProcess:
    """Call the hook that pip and build call, its log on stdout."""
    return subprocess.run([sys.executable, "-c", BUILD, hook, str(target)], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, cwd=source, env={**os.environ, **environment})  # fmt: skip


def wheel(source: Path, target: Path, **environment: str) -> tuple[Path, str]:
    """The wheel's path and the build's log."""
    done = build(source, target, **environment)
    assert done.returncode == 0, done.stdout[-3000:]
    (built,) = target.glob("*.whl")
    return built, done.stdout


@pytest.fixture(scope="session")
def pure(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """The checkout's wheel without a compiled part."""
    return wheel(source, tmp_path_factory.mktemp("pure"), FASTDIFF_BUILD="none")[0]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run_installed(built: Path, target: Path, code: str) -> str:
    """The output of `code` where only the wheel's fastdiff can be imported."""
    with zipfile.ZipFile(built) as archive:
        archive.extractall(target)
    code = f"import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=target, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


USE_REFERENCE = """
import torch, fastdiff
from fastdiff.ops import make_row, registry, solver_step
x = torch.ones(2, 3)
print(fastdiff.__file__)
print(float(solver_step(x, x, make_row(p_m=1.0, A=[0.5], a_x=0.25)).x.sum()))
print(registry.refusal("solver_step", "cpu", registry.CallSpec("cpu", torch.float32)))
"""


def test_a_build_of_none_is_pure_python_and_works(pure: Path, tmp_path: Path) -> None:
    assert pure.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(pure).namelist() if name.endswith((".so", ".pyd"))]
    place, total, refusal = run_installed(pure, tmp_path / "lib", USE_REFERENCE).splitlines()
    assert place.startswith(str(tmp_path))
    assert total == "4.5"
    assert refusal.startswith("not available here")


def test_without_a_working_compiler_auto_says_so_and_falls_back(source: Path, tmp_path: Path) -> None:
    built, log = wheel(source, tmp_path, CC="false", CXX="false", PATH=str(tmp_path), FASTDIFF_BUILD="auto")
    assert built.name.endswith("-py3-none-any.whl")
    assert "fastdiff: no compiled part" in log


def test_without_a_working_compiler_cpu_fails(source: Path, tmp_path: Path) -> None:
    done = build(source, tmp_path, CC="false", CXX="false", FASTDIFF_BUILD="cpu")
    assert done.returncode != 0
    assert list(tmp_path.glob("*.whl")) == []


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_a_build_that_was_asked_to_compile_fails_where_there_is_nothing_to_compile(
    mode: str, hollow: Path, tmp_path: Path
) -> None:
    shutil.rmtree(hollow / "csrc")
    done = build(hollow, tmp_path, FASTDIFF_BUILD=mode)
    assert done.returncode != 0
    assert "no source file in" in done.stdout
    assert list(tmp_path.glob("*.whl")) == []


def test_where_there_is_nothing_to_compile_auto_says_so_and_is_pure_python(hollow: Path, tmp_path: Path) -> None:
    shutil.rmtree(hollow / "csrc")
    built, log = wheel(hollow, tmp_path, FASTDIFF_BUILD="auto")
    assert built.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith((".so", ".pyd"))]
    assert "fastdiff: no compiled part" in log
    assert "no source file in" in log


@pytest.mark.parametrize(
    ("text", "words"), [(WITHOUT_ITS_ENTRY, "PyInit__C"), (WITHOUT_ITS_KERNEL, "undefined symbol")]
)
def test_a_binary_that_cannot_be_loaded_is_no_build(text: str, words: str, hollow: Path, tmp_path: Path) -> None:
    (hollow / "csrc" / "module.cpp").write_text(text)
    done = build(hollow, tmp_path, FASTDIFF_BUILD="cpu")
    assert done.returncode != 0
    assert words in done.stdout
    built, log = wheel(hollow, tmp_path, FASTDIFF_BUILD="auto")
    assert built.name.endswith("-py3-none-any.whl")
    assert words in log


def test_the_build_says_in_plain_words_what_it_does(hollow: Path, tmp_path: Path) -> None:
    (hollow / "csrc" / "module.cpp").write_text(WHOLE)
    _, log = wheel(hollow, tmp_path, FASTDIFF_BUILD="cpu")
    assert "fastdiff: compiling module, 1 of 1\n" in log
    assert "fastdiff: linking _C." in log
    assert "-ffp-contract" not in log


def test_a_second_build_compiles_only_where_something_changed(hollow: Path, tmp_path: Path) -> None:
    module = hollow / "csrc" / "module.cpp"
    module.write_text(WHOLE)
    _, log = wheel(hollow, tmp_path, FASTDIFF_BUILD="cpu")
    assert "fastdiff: compiling module" in log
    _, log = wheel(hollow, tmp_path, FASTDIFF_BUILD="cpu")
    assert "fastdiff: keeping module" in log
    _, log = wheel(hollow, tmp_path, FASTDIFF_BUILD="cpu", CFLAGS="-DSOMETHING", CXXFLAGS="-DSOMETHING")
    assert "fastdiff: compiling module" in log
    module.write_text(WITHOUT_ITS_ENTRY)
    assert build(hollow, tmp_path, FASTDIFF_BUILD="cpu").returncode != 0


def test_cuda_kernels_are_compiled_for_the_architectures_that_are_named_and_no_others(
    hollow: Path, tmp_path: Path
) -> None:
    tool("nvcc")
    (hollow / "csrc" / "module.cpp").write_text(WHOLE)
    (hollow / "csrc" / "cuda").mkdir()
    (hollow / "csrc" / "cuda" / "kernel.cu").write_text("__global__ void kernel(int* x) { *x = 1; }")
    built, _ = wheel(hollow, tmp_path, FASTDIFF_BUILD="cuda", FASTDIFF_CUDA_ARCHS="90a")
    with zipfile.ZipFile(built) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith((".so", ".pyd")))
        binary = archive.extract(name, tmp_path)
    held = "".join(run(tool("cuobjdump"), question, binary).stdout for question in ("-lelf", "-lptx"))
    assert re.findall(r"\.(sm_\w+)\.(cubin|ptx)", held) == [("sm_90a", "cubin")]


def test_no_binary_of_an_earlier_build_is_in_a_wheel_without_one(hollow: Path, tmp_path: Path) -> None:
    (hollow / "csrc" / "module.cpp").write_text(WHOLE)
    wheel(hollow, tmp_path / "first", FASTDIFF_BUILD="cpu")
    built, _ = wheel(hollow, tmp_path / "second", FASTDIFF_BUILD="none")
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith((".so", ".pyd"))]


def test_the_sdist_holds_the_checkout(source: Path, sdist: Path) -> None:
    made = {"PKG-INFO", "setup.cfg"}
    held = {name for name in files(sdist) - made if not name.startswith("fastdiff.egg-info")}
    assert held == {name for name in files(source) if not name.startswith(("fastdiff.egg-info", "build"))}


def test_the_sdists_wheel_holds_what_the_checkouts_does(pure: Path, sdist: Path, tmp_path: Path) -> None:
    built, _ = wheel(sdist, tmp_path, FASTDIFF_BUILD="none")
    assert sorted(zipfile.ZipFile(built).namelist()) == sorted(zipfile.ZipFile(pure).namelist())


def test_the_data_files_are_in_the_wheel(pure: Path) -> None:
    names = set(zipfile.ZipFile(pure).namelist())
    data = (f.relative_to(ROOT) for kind in ("weights", "plans") for f in ROOT.glob(f"fastdiff/demo/{kind}/*"))
    wanted = {"fastdiff/py.typed", *map(str, data)}
    assert len(wanted) == 25
    assert wanted <= names
    assert not any(name.startswith(("tests/", "bench/", "csrc/")) for name in names)


def test_an_unknown_mode_is_refused() -> None:
    environment = {**os.environ, "FASTDIFF_BUILD": "gpu"}
    command = [sys.executable, "setup.py", "--name"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "expected auto, cpu, cuda or none, got 'gpu'" in done.stderr


def test_the_build_imports_neither_torch_nor_numpy() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"setuptools", "pybind11"}


def test_build_info_says_what_the_binary_holds() -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    info = native._C.build_info()
    assert set(info) == {"compiler", "isas", "isa", "cuda", "nvcc"}
    assert info["isa"] in info["isas"].split()
    assert set(native._C.usable_isas()) <= set(info["isas"].split())
    assert (info["cuda"] is None) == (info["nvcc"] is None)
    if info["cuda"] is not None:
        assert {"sm_80", "sm_90a"} <= set(info["cuda"].split())
        assert {"compute_90", "compute_100"} & set(info["cuda"].split())


def test_the_instruction_sets_in_use_are_those_that_the_system_lists() -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        pytest.skip("another machine or system")
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    avx512 = {f"avx512{part}" for part in ("f", "bw", "dq", "vl")}
    needs = {"portable": set(), "avx2": {"avx2", "fma", "f16c"}, "avx512": avx512, "avx512_bf16": {"avx512_bf16"}}
    built = native._C.build_info()["isas"].split()
    usable = [isa for isa in built if needs[isa] <= flags]
    assert native._C.usable_isas() == usable
    assert native._C.build_info()["isa"] == usable[-1]


def test_a_binary_without_cuda_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    without = {**native._C.build_info(), "cuda": None}
    monkeypatch.setattr(native, "_C", type("Binary", (), {"build_info": staticmethod(lambda: without)}))
    case = registry.CallSpec("cuda", torch.float32)
    assert "built without CUDA" in native.IMPLEMENTS["cuda", "solver_step"].refuse(case)
    assert "CUDA tensors only" in native.IMPLEMENTS["cuda", "solver_step"].refuse(case._replace(device="cpu"))
    assert "CPU tensors only" in native.IMPLEMENTS["cpu", "solver_step"].refuse(case)
    assert "not torch.int32" in native.IMPLEMENTS["cpu", "solver_step"].refuse(registry.CallSpec("cpu", torch.int32))


def test_the_binary_needs_no_cuda_library() -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    if shutil.which("ldd") is None:
        pytest.skip("no ldd")
    linked = subprocess.run(["ldd", native._C.__file__], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in linked
    assert "torch" not in linked

"""setup.py and the wheels it makes. Nothing here uses the network."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fastdiff.ops import registry

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that it leaves nothing in the checkout."""
    target = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    for name in ("csrc", "fastdiff"):
        shutil.copytree(ROOT / name, target / name, ignore=unwanted)
    return target


def wheel(source: Path, target: Path, **environment: str) -> tuple[Path, str]:
    """Build a wheel without isolation; its path and the build's log."""
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run([*command, "-w", str(target), str(source)], capture_output=True, text=True,
                          timeout=300, env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = target.glob("*.whl")
    return built, done.stdout + done.stderr


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
print(registry.refusal("solver_step", "cpu", registry.Case("cpu", torch.float32)))
"""


def test_a_build_of_none_is_pure_python_and_works(source: Path, tmp_path: Path) -> None:
    built, _ = wheel(source, tmp_path, FASTDIFF_BUILD="none")
    assert built.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith((".so", ".pyd"))]
    place, total, refusal = run_installed(built, tmp_path / "lib", USE_REFERENCE).splitlines()
    assert place.startswith(str(tmp_path))
    assert total == "4.5"
    assert refusal.startswith("not available here")


def test_without_a_working_compiler_auto_says_so_and_falls_back(source: Path, tmp_path: Path) -> None:
    built, log = wheel(source, tmp_path, CC="false", CXX="false", PATH=str(tmp_path), FASTDIFF_BUILD="auto")
    assert built.name.endswith("-py3-none-any.whl")
    assert "fastdiff: no compiled part" in log


def test_without_a_working_compiler_cpu_fails(source: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        wheel(source, tmp_path, CC="false", CXX="false", FASTDIFF_BUILD="cpu")


def test_the_data_files_are_in_the_wheel(source: Path, tmp_path: Path) -> None:
    built, _ = wheel(source, tmp_path, FASTDIFF_BUILD="none")
    names = set(zipfile.ZipFile(built).namelist())
    data = (f.relative_to(ROOT) for kind in ("weights", "plans") for f in ROOT.glob(f"fastdiff/demo/{kind}/*"))
    wanted = {"fastdiff/py.typed", *map(str, data)}
    assert len(wanted) == 8
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
        assert {"sm_80", "sm_90a", "compute_90"} <= set(info["cuda"].split())


def test_a_binary_without_cuda_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    without = {**native._C.build_info(), "cuda": None}
    monkeypatch.setattr(native, "_C", type("Binary", (), {"build_info": staticmethod(lambda: without)}))
    case = registry.Case("cuda", torch.float32)
    assert "built without CUDA" in native.IMPLEMENTS["cuda", "solver_step"].refuse(case)
    assert "CUDA tensors only" in native.IMPLEMENTS["cuda", "solver_step"].refuse(case._replace(device="cpu"))
    assert "CPU tensors only" in native.IMPLEMENTS["cpu", "solver_step"].refuse(case)
    assert "not torch.int32" in native.IMPLEMENTS["cpu", "solver_step"].refuse(registry.Case("cpu", torch.int32))


def test_the_binary_needs_no_cuda_library() -> None:
    native = pytest.importorskip("fastdiff.ops.native")
    if shutil.which("ldd") is None:
        pytest.skip("no ldd")
    linked = subprocess.run(["ldd", native._C.__file__], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in linked
    assert "torch" not in linked

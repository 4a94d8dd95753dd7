"""Builds fastdiff.ops._C with what the machine offers; torch is not needed, nor imported.

FASTDIFF_BUILD=auto (the default) builds the CPU part if there is a C++17 compiler and the CUDA part if there is nvcc,
and installs pure Python where neither works; `cpu` and `cuda` fail instead; `none` builds nothing. CC and CXX name the
compiler, CXXFLAGS and LDFLAGS add to its flags. FASTDIFF_CUDA_ARCHS names the only architectures to compile for, as
nvcc does ("80 90a"); the result runs on no others.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel as BdistWheel
from setuptools.command.build_ext import build_ext as BuildExt
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
ISA_FLAGS = CSRC / "cpu" / "isa_flags.txt"
MODE = os.environ.get("FASTDIFF_BUILD", "auto")

# Explicit fused multiply-adds only, so that a value does not depend on where a loop was vectorised.
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-fno-math-errno"]
CXX_FLAGS += ["-fno-trapping-math", "-ffp-contract=off", "-Wno-unknown-pragmas"]  # unroll is nvcc's
CXX_FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # gcc 12 finds its own intrinsics at fault
CXX_FLAGS += ["-Wno-unknown-warning-option"]  # and clang does not know the last
CUDA_ARCHS = ["80", "90a", "100"]
CUDA_PTX = ("100", "90")  # for all later ones; the first that nvcc knows: what ptxas is given for 100 serves them too
ONLY_ARCHS = os.environ.get("FASTDIFF_CUDA_ARCHS", "").split()


# What the loader makes of the file: a linker is content with an extension that lacks symbols, or is empty.
LOAD = "import sys, importlib.util as u; u.module_from_spec(u.spec_from_file_location('_C', sys.argv[1]))"


class Job(NamedTuple):
    """One call of a compiler."""

    name: str
    source: Path
    target: str  # the object file
    compile: Callable[[], object]


def say(text: str) -> None:
    print(f"fastdiff: {text}", flush=True)


@contextmanager
def without_commands() -> Iterator[None]:
    """Keeps setuptools from printing the compiler's command lines; one that fails is in its error."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def is_kernel(source: Path) -> bool:
    """Whether it is compiled once per instruction set, into the namespace that FASTDIFF_ISA names."""
    return "FASTDIFF_ISA" in source.read_text()


def isa_flags() -> dict[str, list[str]]:
    """The compiler's flags for each instruction set, the best last."""
    words = (line.split() for line in ISA_FLAGS.read_text().splitlines() if not line.startswith("#"))
    return {name: flags for name, *flags in words}


def with_includes(source: Path) -> list[Path]:
    """The source and all of csrc that it includes, directly or not."""
    found: set[Path] = set()
    new = {source}
    while new:
        path = new.pop()
        found.add(path)
        names = re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)
        new |= {file for name in names if (file := (path.parent / name).resolve()).is_file()} - found
    return sorted(found)


class Nvcc:
    """The CUDA compiler, called directly."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.home = self._home()
        self.version = re.findall(r"V([\d.]+)", self._ask("--version"))[-1]
        known = self._ask("--list-gpu-code").split()
        self.archs = ONLY_ARCHS or [arch for arch in CUDA_ARCHS if f"sm_{arch.rstrip('a')}" in known]
        self.ptx = [] if ONLY_ARCHS else [arch for arch in CUDA_PTX if f"sm_{arch}" in known][:1]

    @classmethod
    def find(cls) -> Nvcc | None:
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        path = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")
        return cls(path) if path else None

    def _ask(self, *arguments: str) -> str:
        done = subprocess.run([self.path, *arguments], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def _home(self) -> Path:
        """The toolkit's folder as nvcc itself resolves it: the nvcc on PATH may be a link or a script."""
        found = re.search(r"^#\$ TOP=(.*)$", self._ask("-dryrun", "-c", "-x", "cu", os.devnull), re.MULTILINE)
        return Path(found.group(1).strip()) if found else Path(self.path).resolve().parent.parent

    @property
    def holds(self) -> str:
        return " ".join([*(f"sm_{arch}" for arch in self.archs), *(f"compute_{arch}" for arch in self.ptx)])

    def compile(self, source: Path, target: Path) -> None:
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in self.archs]
        codes += [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in self.ptx]
        flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static"]
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([self.path, "-c", str(source), "-o", str(target), *flags, *codes], check=True)

    def link_flags(self) -> list[str]:
        folders = [self.home / name for name in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib")]
        return [*(f"-L{folder}" for folder in folders), "-lcudart_static", "-ldl", "-lrt"]


class build_ext(BuildExt):
    """Compiles csrc by its naming conventions and, in auto mode, does without what cannot be compiled."""

    def build_extension(self, ext: Extension) -> None:
        nvcc = self._wanted_nvcc()
        try:
            self._build(ext, nvcc)
        except Exception as error:
            if MODE != "auto" or nvcc is None:
                raise
            say(f"the CUDA part was left out: {error}")
            self._build(ext, None)

    def run(self) -> None:
        for ext in self.extensions:  # an earlier build's, in the folder that becomes the wheel
            Path(self.build_lib, self.get_ext_filename(ext.name)).unlink(missing_ok=True)
        if MODE == "none":
            self.extensions.clear()
            return
        try:
            super().run()
        except Exception as error:
            if MODE != "auto":
                raise
            say(f"no compiled part, this is a pure-Python install: {error}")
            self.extensions.clear()

    def copy_extensions_to_source(self) -> None:
        """In one rename each, so that a process that has the old file open keeps it whole."""
        for ext in self.extensions:
            built = Path(self.build_lib, self.get_ext_filename(ext.name))
            target = ROOT / self.get_ext_filename(ext.name)
            fresh = target.with_suffix(f".{os.getpid()}")
            shutil.copy2(built, fresh)
            fresh.replace(target)

    def _wanted_nvcc(self) -> Nvcc | None:
        if MODE == "cpu":
            return None
        if not list(CSRC.glob("cuda/*.cu")):
            if MODE == "cuda":
                raise RuntimeError(f"FASTDIFF_BUILD=cuda, but there is no source file in {CSRC / 'cuda'}")
            return None
        nvcc = Nvcc.find()
        if nvcc is None and MODE == "cuda":
            raise RuntimeError("FASTDIFF_BUILD=cuda, but there is no nvcc on PATH or under CUDA_HOME")
        return nvcc

    def _build(self, ext: Extension, nvcc: Nvcc | None) -> None:
        target = self.get_ext_fullpath(ext.name)
        with without_commands():
            objects = self._compile(self._jobs(nvcc), self._tools(nvcc))
            say(f"linking {Path(target).name}")
            flags = ["-pthread", *self._hide(), *(nvcc.link_flags() if nvcc else [])]
            self.compiler.link_shared_object(objects, target, extra_postargs=flags, target_lang="c++")
        loaded = subprocess.run([sys.executable, "-c", LOAD, target], capture_output=True, text=True)
        if loaded.returncode:
            Path(target).unlink()
            raise RuntimeError(f"{CSRC} is not whole, or this compiler's output cannot be loaded: {loaded.stderr}")

    def _compile(self, jobs: list[Job], tools: bytes) -> list[str]:
        """The object files. Those that an earlier build made with the same tools and from the same text are kept."""
        if not jobs:
            raise RuntimeError(f"there is nothing to compile: no source file in {CSRC}")
        count = itertools.count(1)

        def run(job: Job) -> str:
            text = b"\0".join(path.read_bytes() for path in with_includes(job.source))
            mark = Path(f"{job.target}.{hashlib.sha256(tools + text).hexdigest()[:16]}")
            which = f"{job.name}, {next(count)} of {len(jobs)}"
            if mark.exists():
                say(f"keeping {which}")
                return job.target
            say(f"compiling {which}")
            for stale in mark.parent.glob(f"{Path(job.target).name}.*"):
                stale.unlink()
            job.compile()
            mark.touch()
            return job.target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(run, jobs))  # the first failure ends it

    def _tools(self, nvcc: Nvcc | None) -> bytes:
        """All that decides what the compilers make, apart from their sources and what the system's headers hold."""
        import pybind11

        command = getattr(self.compiler, "compiler_so_cxx", [])  # with CXXFLAGS
        version = subprocess.run([*command, "--version"], capture_output=True).stdout if command else b""
        flags = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NVCC_")]
        cuda = [nvcc.path, nvcc.version, nvcc.holds, *flags] if nvcc else []
        tools = (command, version, cuda, self.include_dirs, pybind11.__version__)
        settings = [path.read_bytes() for path in (ROOT / "setup.py", ISA_FLAGS) if path.exists()]
        return repr((tools, settings)).encode()

    def _hide(self) -> list[str]:
        """Flags that export the module's entry and nothing of the libraries linked into it."""
        if platform.system() != "Linux":
            return []
        script = Path(self.build_temp, "exports.map")
        script.write_text("{ global: PyInit__C; local: *; };\n")
        return [f"-Wl,--version-script={script}"]

    def _isas(self) -> dict[str, list[str]]:
        """The instruction sets to compile for. Compilers older than gcc 10 and clang 9 do not know the last one."""
        isas = isa_flags()
        if not is_x86():
            return {"portable": isas["portable"]}
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "empty.cpp")
            source.touch()
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=isas["avx512_bf16"])
            except CompileError:
                del isas["avx512_bf16"]
        return isas

    def _jobs(self, nvcc: Nvcc | None) -> list[Job]:
        import pybind11  # here, because FASTDIFF_BUILD=none does without

        kernels = [source for source in sorted(CSRC.glob("cpu/*.cpp")) if is_kernel(source)]
        isas = self._isas() if kernels else {}
        macros = [("FASTDIFF_X86", None)] if is_x86() else []
        macros += [("FASTDIFF_AVX512_BF16", None)] if "avx512_bf16" in isas else []
        include = [*self.include_dirs, pybind11.get_include()]
        if nvcc:
            macros += [("FASTDIFF_CUDA", f'"{nvcc.holds}"'), ("FASTDIFF_NVCC", f'"{nvcc.version}"')]
            include.append(str(nvcc.home / "include"))
        rest = [source for source in sorted([*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")]) if source not in kernels]
        jobs = [self._cxx(source.stem, source, "main", macros=macros, include_dirs=include) for source in rest]
        for source, (isa, flags) in itertools.product(kernels, isas.items()):
            name, isa_macros = f"{source.stem} for {isa}", [*macros, ("FASTDIFF_ISA", isa)]
            jobs.append(self._cxx(name, source, isa, flags, macros=isa_macros, include_dirs=self.include_dirs))
        for source in sorted(CSRC.glob("cuda/*.cu")) if nvcc else ():
            target = Path(self.build_temp, "cuda", f"{source.stem}.o")
            jobs.append(Job(f"{source.stem} for CUDA", source, str(target), partial(nvcc.compile, source, target)))
        return jobs

    def _cxx(self, name: str, source: Path, folder: str, flags: Iterable[str] = (), **options: object) -> Job:
        """`folder` keeps the objects of one source apart."""
        sources, target = [os.path.relpath(source)], os.path.join(self.build_temp, folder)
        flags = [*CXX_FLAGS, *flags]
        compile = partial(self.compiler.compile, sources, output_dir=target, extra_postargs=flags, **options)
        return Job(name, source, self.compiler.object_filenames(sources, output_dir=target)[0], compile)


class bdist_wheel(BdistWheel):
    """Tags the wheel for this platform only if something was compiled."""

    def run(self) -> None:
        self.run_command("build")
        self.skip_build = True  # or all is linked again
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


if MODE not in ("auto", "cpu", "cuda", "none"):
    raise SystemExit(f"FASTDIFF_BUILD: expected auto, cpu, cuda or none, got {MODE!r}")

setup(
    ext_modules=[Extension("fastdiff.ops._C", sources=[], language="c++")],
    cmdclass={"build_ext": build_ext, "bdist_wheel": bdist_wheel},
)

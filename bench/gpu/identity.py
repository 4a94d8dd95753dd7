"""Which source was measured, on what: results are gone on from only where all of this is the same."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from ..machine import processor

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("fastdiff", "csrc", "bench", "tests", "setup.py", "pyproject.toml")
SUFFIXES = (".py", ".h", ".cpp", ".cu", ".toml")


def identity(device: str, quick: bool) -> dict:
    return {"source": source_hash(), "machine": machine(device), "quick": quick}


def source_hash(root: Path = ROOT) -> str:
    """Of the package, its kernels, its tests and its benchmarks."""
    digest = hashlib.sha256()
    for name in SOURCES:
        place = root / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in SUFFIXES and path.is_file():
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def machine(device: str) -> dict:
    """The device and the versions; for CUDA the capability and the driver, too."""
    found: dict = {"device": processor(), "python": platform.python_version(), "torch": torch.__version__}
    found |= {name: _version(name) for name in ("triton", "diffusers")}
    if device == "cuda":
        found |= {
            "device": torch.cuda.get_device_name(),
            "capability": list(torch.cuda.get_device_capability()),
            "cuda": str(torch.version.cuda),
            "driver": _driver(),
        }
    return found


def file_name(identity: dict) -> str:
    """The device's name and a hash of all the rest, so that no other machine's or source's results are overwritten."""
    device = identity["machine"]["device"].lower()
    stem = "".join(c if c.isalnum() else "-" for c in device).strip("-")[:40]
    return f"{stem}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:8]}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0]
    except OSError:
        return "unknown"

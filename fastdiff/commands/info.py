"""fastdiff info: what runs here, and why not the rest."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata

import torch

from ..ops import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastdiff info`: none."""
    del parser  # no arguments of its own


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    print("\n".join(report()))
    return 0


def report() -> list[str]:
    """Versions, devices, how the native part was built, and the op by backend table."""
    names = ("fastdiff", "torch", "triton", "numpy", "diffusers")
    lines = [f"{name:12s}{_version(name)}" for name in names]
    lines += [f"{'python':12s}{platform.python_version()} on {platform.system()} {platform.machine()}"]
    lines += [f"{'cpu':12s}{torch.get_num_threads()} threads"]
    lines += [f"{'gpu':12s}{gpu}" for gpu in _gpus()]
    lines += [f"{'native':12s}{_native()}"]
    lines += [f"{'environment':12s}{name}={os.environ[name]}" for name in ("FASTDIFF_BACKEND",) if name in os.environ]
    return [*lines, "", *_table()]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return ["none that torch can use"]
    return [
        f"{torch.cuda.get_device_name(i)}, compute capability {'.'.join(map(str, torch.cuda.get_device_capability(i)))}"
        for i in range(torch.cuda.device_count())
    ]


def _native() -> str:
    try:
        from ..ops import _C
    except ImportError as error:
        return f"not built ({error})"
    return ", ".join(f"{key} {value}" for key, value in _C.build_info().items())


def _table() -> list[str]:
    """One line an op and backend: yes, or the reason why not. Triton and CUDA are asked about a CUDA device."""
    lines = []
    for op in registry.OPS:
        for name in registry.BACKENDS:
            device = "cuda" if name in ("triton", "cuda") else "cpu"
            reason = registry.refusal(op, name, registry.CallSpec(device, torch.float32, (1, 4, 64, 64)))
            if reason is None and device == "cuda" and not torch.cuda.is_available():
                reason = "no CUDA device"
            lines.append(f"{op:17s}{name:10s} {'yes' if reason is None else 'no: ' + reason}")
    return lines

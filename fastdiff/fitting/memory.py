"""How much memory there is for what a fit keeps."""

from __future__ import annotations

import os
from pathlib import Path

import torch

SHARE = 0.25  # of what is free, that trajectories may take: the model and its activations need the rest
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; the machine's where the device has none of its own."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # another system than Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**32


def allowed(device: torch.device, processes: int) -> int:
    """Bytes that trajectories may take on a device where nothing else is said.

    Each process keeps them all, and those without a device of their own share the machine's memory.
    """
    share = SHARE / processes if device.type == "cpu" else SHARE
    return int(share * free_memory(device))


def size_of(count: float) -> str:
    """A number of bytes for the reader."""
    return next((f"{count / size:.3g} {unit}" for unit, size in UNITS if count >= size), f"{count:.0f} bytes")

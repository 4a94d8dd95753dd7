"""Jobs into small folders, and what the folders hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

PLAN = demo.fitted_plan(4)


def labels(seeds: list[int]) -> dict[str, Tensor]:
    """Each seed's last digit."""
    return {"y": torch.tensor(seeds) % 10}


def job(folder: Path, draw: Callable, seeds: object = range(40), **options: object) -> fd.distributed.Drawn:
    """In shards of 16, drawn by eights."""
    told = {} if isinstance(draw, fd.distributed.Draw) else {"told": {"model": "Gaussian"}}
    return fd.distributed.sample_to(folder, draw, seeds, **{"shard": 16, "micro_batch": 8} | told | options)


def by_seed(folder: Path) -> dict[int, bytes]:
    """The samples of safetensors shards."""
    found = {}
    for path in folder.glob("shard-*.safetensors"):
        tensors = load_file(path)
        found |= {s: x.numpy().tobytes() for s, x in zip(tensors["seeds"].tolist(), tensors["x"], strict=True)}
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

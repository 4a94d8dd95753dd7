"""fastdiff sample --trace: what happens at each step of the run, as a page or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import demo
from ..inspection.page import plotly_script
from ..inspection.trace import trace
from ..plans.plan import Plan
from ..sampling.noise import randn
from .output import Output

SUFFIXES = (".html", ".safetensors")
TRACED = 8  # samples


def trace_output(path: Path) -> Output:
    """Where the trace goes. Raises ValueError for another suffix, and for a page without plotly."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--trace: expected a name that ends in {' or '.join(SUFFIXES)}, got {path}")
    if path.suffix == ".html":
        try:
            plotly_script()
        except ImportError as error:
            raise ValueError(f"--trace: {error}") from error
    return Output("--trace", path)


def write_trace(
    out: Output, model: torch.nn.Module, plan: Plan, seeds: Sequence[int], labels: torch.Tensor, **options: Any
) -> None:
    """Trace the first samples, and write it."""
    seeds, labels = seeds[:TRACED], labels[:TRACED]
    found = trace(model, plan, randn((len(seeds), *demo.SHAPE), seeds), seeds=seeds, y=labels, **options)
    if out.path.suffix == ".html":
        out.save(lambda path: found.html(path, title=f"Digits by {plan.solver} in {plan.nfe} evaluations"))
    else:
        out.save(found.save)

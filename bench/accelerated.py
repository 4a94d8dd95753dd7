"""What `accelerate` does to the networks people run: modules replaced and left, calls of the ops, the worst difference.

    python -m bench.accelerated                    # into bench/results/accelerated.md

Tiny networks of diffusers with random weights, as in tests/patch_networks.py; the reference backend serves every call.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import diffusers
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import registry
from fastdiff.patch import norms

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from patch_models import Model
from patch_networks import NETWORKS

RESULT = Path(__file__).parent / "results" / "accelerated.md"


def output(model: Model) -> Tensor:
    out = model()
    return torch.cat([each.flatten() for each in out]) if isinstance(out, list) else out


def row(name: str, runs: int) -> list[str]:
    worst, calls = 0.0, Counter[str]()

    def choose(op: str, *case: object, of=registry.choose) -> object:
        calls[op] += 1
        return of(op, *case)

    for _ in range(runs):
        model = NETWORKS[name]()
        expected = output(model)
        handle = fd.accelerate(model.module)
        calls.clear()
        with mock.patch.object(registry, "choose", choose), fd.backend("reference"):
            found = output(model)
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    listed = ("; ".join(f"{count} x {what}" for what, count in each.items()) for each in (handle.changes, handle.left))
    return [name, *listed, f"{calls['attention']} + {calls['group_norm']}", f"{worst:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with mock.patch.object(norms, "_SMALL", {"none": 0, "silu": 0}):
        rows = [row(name, options.runs) for name in NETWORKS]
    head = ["network", "replaced", "left", "calls of attention + group_norm", "worst difference"]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    told = (
        f"`python -m bench.accelerated`, torch {torch.__version__}, diffusers {diffusers.__version__}. Tiny networks,"
        f" random weights, float32; calls in one forward; the worst |difference| / max |output| of {options.runs} runs."
    )
    options.out.write_text("\n\n".join(["# Networks that are accelerated", told, "\n".join(lines)]) + "\n")


if __name__ == "__main__":
    main()

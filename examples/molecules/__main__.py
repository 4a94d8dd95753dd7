"""`python -m examples.molecules`: train for a few minutes, sample by several samplers, compare, draw."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch

import fastdiff as fd
from fastdiff import structures

from . import scores
from .data import Molecules, molecules
from .picture import draw
from .training import SCHEDULE, trained

EVALUATIONS = (4, 6, 8, 10, 20, 40)
HEAD = ("evaluations", "sampler", "valid", "W1 of distances", "from a known one")


def plans(n: int) -> Iterator[tuple[str, fd.Plan]]:
    """Those of the field, each on Karras' grid, and fastdiff's default."""
    edm = {"grid": "karras", "prediction": "sample"}
    yield "Euler", fd.plan("euler", SCHEDULE, n, **edm)
    yield "Heun (EDM)", fd.plan("heun", SCHEDULE, n // 2, **edm)
    churn = {"s_churn": math.inf, "max_churn": 0.8, "s_tmin": 0.05, "s_noise": 1.003, "step_scale": 1.5}
    yield "AlphaFold 3, Boltz", fd.plan("euler", SCHEDULE, n, **edm, **churn)
    yield "fastdiff", fd.plan(None, SCHEDULE, n, prediction="sample")


def drawn(model: torch.nn.Module, plan: fd.Plan, wanted: Molecules) -> Molecules:
    """The formulas' atoms where the run puts them; the same noise for every plan."""
    seeds = range(len(wanted.x))
    noise = structures.centred_noise(wanted.x.shape, wanted.mask, seeds=seeds)
    return wanted._replace(x=fd.sample(model, plan, noise, atoms=wanted.atoms, seeds=seeds))


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="seconds: a network that has learnt next to nothing")
    options.add_argument("--out", type=Path, help="a folder for molecules.png")
    asked = options.parse_args(argv)
    known = molecules()
    compare(trained(known, 2, batch=4) if asked.quick else trained(known, 8000), known, asked.quick, asked.out)


def compare(model: torch.nn.Module, known: Molecules, quick: bool = False, out: Path | None = None) -> None:
    """The table, and the picture."""
    wanted = known.at(torch.arange(4) if quick else torch.arange(len(known.x)).repeat(4))
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    shown = {}
    for n in EVALUATIONS[:1] if quick else EVALUATIONS:
        for name, plan in plans(n):
            found = drawn(model, plan, wanted)
            shown[name, plan.nfe] = found
            share, apart = float(scores.valid(found).float().mean()), scores.distances_apart(found, known)
            near = float(scores.nearest_known(found, known).median())
            print(f"| {plan.nfe} | {name} | {share:.3f} | {apart:.3f} | {near:.3f} |", flush=True)
    if out:
        draw(known, shown, out / "molecules.png")


if __name__ == "__main__":
    main()

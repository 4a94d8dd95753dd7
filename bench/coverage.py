"""Which share of the data is drawn at all, by solver and number of steps.

    python -m bench.coverage                  # a few minutes on one core; writes bench/results/coverage.md

No label is told, so that classes come from the noise alone. Features are the network's own. Beside each table stand as
many real pictures that are not among those compared with: no sampler has to be better than them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import fastdiff as fd
from fastdiff import demo
from fastdiff.demo.features import DATA, TIMES, Features
from fastdiff.distributed import Draw, Measure
from fastdiff.sampling.ranks import Ranks

from .machine import processor
from .markdown import table

RESULTS = Path(__file__).parent / "results" / "coverage.md"
SAMPLES, REAL, NEIGHBOURS = 600, 1197, 5
STEPS = (4, 6, 10, 20)
SOLVERS = {"ddim": {}, "dpmpp_2m": {}, "unipc": {}, "ddim, eta 1": {"eta": 1.0}}
GUIDED_STEPS, SCALE = 10, 3.0
HEAD = ("solver", "NFE", "classes hit", "rarest class", "FID-type", "precision", "density", "recall", "coverage")


def study(name: str) -> Iterator[tuple[object, ...]]:
    """The rows of a network's table."""
    net, given = demo.network(name), DATA[name]()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(given.x)))
    real, others = order[:REAL], order[REAL : REAL + SAMPLES]
    features = Features(net, TIMES[name])
    seeds = list(range(SAMPLES))

    def row(title: str, evaluations: object, x: torch.Tensor) -> tuple[object, ...]:
        measure = Measure(features, given.x[real], given.y[real], k=NEIGHBOURS)
        measure.add(x, 0)
        found = measure.scores(SAMPLES, Ranks())
        shares = [f"{found[key]:.3f}" for key in ("precision", "density", "recall", "coverage")]
        rarest = f"{100 * min(found['classes']) / SAMPLES:.1f} %"
        return title, evaluations, f"{found['classes_hit']} of 10", rarest, f"{found['fid']:.3f}", *shares

    yield row("real pictures", "", given.x[others])
    for solver, options in SOLVERS.items():
        for steps in STEPS:
            plan = fd.plan(
                solver.split(",")[0], net.schedule, steps, grid="quadratic", prediction=net.prediction, **options
            )
            draw = Draw(net.model, plan, net.shape, y=torch.full((100,), net.num_classes))
            x = torch.cat([draw(seeds[i : i + 100]) for i in range(0, SAMPLES, 100)])
            yield row(solver, plan.nfe, x)
    plan = fd.plan("dpmpp_2m", net.schedule, GUIDED_STEPS, grid="quadratic", prediction=net.prediction)
    for scale in (1.0, SCALE):
        draw = Draw(net.model, plan, net.shape, conditions=net.conditions, guidance=scale, uncond=net.uncond())
        x = torch.cat([draw(seeds[i : i + 100]) for i in range(0, SAMPLES, 100)])
        yield row(f"dpmpp_2m, labels, guidance {scale:g}", plan.nfe * (2 if scale != 1 else 1), x)


def main() -> None:
    """Measure, and write the page."""
    parts = [
        "# Which share of the data is drawn",
        f"`python -m bench.coverage`, torch {torch.__version__}, {processor()}. {SAMPLES} samples without labels but"
        f" for the last rows, beside {REAL} real pictures and as many others; features of the network itself,"
        f" k = {NEIGHBOURS}. Classes are those of the nearest real picture. NFE are of the network for each sample.",
    ]
    for name in DATA:
        parts += [f"## {name}", table(HEAD, study(name))]
        RESULTS.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()

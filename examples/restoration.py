"""Photographs restored by deepinv's and azula's own guidance: their samplers beside fastdiff's in their place.

python -m examples.restoration [--quick] [--out FOLDER]

Small photographs that the network has not seen, at a quarter of their resolution, blurred, or with a fifth of their
pixels. Every method has as many passes through the network. deepinv and azula are left out where they are absent.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from fastdiff import demo
from fastdiff.hosts.azula import Sampler
from fastdiff.hosts.deepinv import SDESolver

from .posterior.images import deblur, enlarge, fill
from .posterior.methods import Draw, by, drawn
from .posterior.picture import draw_picture
from .posterior.problem import Network, Problem
from .posterior.table import table

WEIGHT = 3.0  # of deepinv's data term: of 0.3, 1, 3 and 10 the best CRPS for both on the first problem


def with_azula(ours: bool, model: Network, problem: Problem, members: int, passes: int) -> Tensor:
    """MMPS, an evaluation and two products with the Jacobian a step, by DDIM or by fastdiff's default."""
    from azula import guidance, sample
    from azula.linalg.covariance import IsotropicCovariance

    from .posterior import peer_azula, peers

    A, y = peers.real_measurements(problem, members)
    inner = peer_azula.Wrapped(model)
    denoiser = guidance.MMPSDenoiser(inner, y, A, IsotropicCovariance(problem.noise**2))
    kind = Sampler if ours else sample.DDIMSampler
    return peer_azula.run(kind(denoiser, steps=passes // 3, silent=True), problem, members)


def with_deepinv(ours: bool, model: Network, problem: Problem, members: int, passes: int) -> Tensor:
    """DPS' term, an evaluation and a product with the Jacobian a step, by DDIM or by fastdiff's default."""
    from deepinv import sampling

    from .posterior import peer_deepinv

    scaled = peer_deepinv.Scaled(problem, members, -1.0)
    denoiser = peer_deepinv.Wrapped(model, scaled)
    solver = (SDESolver if ours else sampling.DDIMSolver)(t_start=1.0, t_end=0.001, num_steps=passes // 2 + 1)
    sampler = sampling.PosteriorDiffusion(
        sampling.DPSDataFidelity(denoiser, weight=WEIGHT), denoiser,
        sampling.VarianceExplodingDiffusion(sigma_max=40.0, minus_one_one=False), solver, minus_one_one=False,
    )  # fmt: skip
    return scaled.back(sampler(scaled.y, scaled.physics(), x_init=scaled.shape, denoise_output=False))


def methods() -> dict[str, Draw]:
    """By name; fastdiff's own correction takes five passes a step."""
    found: dict[str, Draw] = {}
    for name, guided, draw in (("azula", "MMPS", with_azula), ("deepinv", "DPS", with_deepinv)):
        if importlib.util.find_spec(name):
            found[f"{name} {guided}, its DDIM"] = partial(draw, False)
            found[f"{name} {guided}, fastdiff"] = partial(draw, True)
    return found | {"fastdiff, moment": by("moment", 5)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one photograph, two members")
    parser.add_argument("--out", type=Path, help="folder for a picture of each problem")
    parser.add_argument("--passes", type=int, default=30, help="through the network, for each member")
    asked = parser.parse_args(argv)
    net, members, passes = demo.network("colour"), 2 if asked.quick else 4, asked.passes
    truth = net.examples[:: len(net.examples) // (1 if asked.quick else 4)]
    for make in (enlarge, deblur, fill):
        problem = make(net, truth)
        found = [drawn(name, draw, problem, members, passes) for name, draw in methods().items()]
        print(f"\n### {problem.name}\n\n{table(problem, found)}", flush=True)
        if asked.out:
            draw_picture(problem, found, asked.out)


if __name__ == "__main__":
    main()

"""Simulation-based inference on two moons, whose posterior is known: sbi's networks, drawn by sbi and by fastdiff.

python -m examples.inference [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.markdown import table

QUIET = {"show_progress_bars": False, "reject_outside_prior": False}
EVALUATIONS = (4, 6, 10, 50)


def crescent(count: int) -> Tensor:
    """[count, 2] points p of a half ring of radius 0.1."""
    angle, radius = torch.pi * (torch.rand(count) - 0.5), 0.1 + 0.01 * torch.randn(count)
    return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], dim=1)


def two_moons(theta: Tensor) -> Tensor:
    """x [N, 2] = p + (-|a + b|, b - a) / sqrt 2 for theta = (a, b) in [-1, 1]^2 (Greenberg et al. 2019)."""
    a, b = theta.unbind(1)
    return crescent(len(theta)) + torch.stack([-(a + b).abs(), b - a], dim=1) / 2**0.5


def exact_posterior(x: Tensor, count: int) -> Tensor:
    """theta [count, 2] given x [2]: what was added to p is known, but for the sign of a + b; uniform in the prior."""
    drawn = x - crescent(8 * count)
    sign = 2.0 * torch.randint(2, (len(drawn),)) - 1
    total, difference = -(2**0.5) * drawn[:, 0] * sign, 2**0.5 * drawn[:, 1]
    theta = torch.stack([total - difference, total + difference], dim=1) / 2
    return theta[(drawn[:, 0] < 0) & (theta.abs() < 1).all(1)][:count]


def sliced_distance(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """The mean over directions of the Wasserstein-1 distance between as many x and y [N, 2], projected."""
    angle = torch.pi * torch.arange(directions) / directions
    rays = torch.stack([angle.cos(), angle.sin()])
    return float(((x @ rays).sort(0).values - (y @ rays).sort(0).values).abs().mean())


def trained(simulations: int, epochs: int) -> dict[str, Any]:
    """sbi's posteriors, NPSE and FMPE, with its own networks and training on the same simulations."""
    from sbi.inference import FMPE, NPSE
    from sbi.utils import BoxUniform

    torch.manual_seed(0)
    prior = BoxUniform(-torch.ones(2), torch.ones(2))
    theta = prior.sample((simulations,))
    x, posteriors = two_moons(theta), {}
    for kind in (NPSE, FMPE):
        inference = kind(prior, show_progress_bars=False).append_simulations(theta, x)
        estimator = inference.train(max_num_epochs=epochs, training_batch_size=500)
        posteriors[kind.__name__] = inference.build_posterior(estimator, sample_with="sde")
    return posteriors


def samplers(quick: bool) -> Iterator[tuple[str, int, dict[str, object]]]:
    """(name, evaluations, options of `posterior.sample`). sbi's steps count the ends of steps."""
    for evaluations in EVALUATIONS[:2] if quick else EVALUATIONS:
        yield "euler_maruyama", evaluations, {"steps": evaluations + 1}
        yield "fastdiff", evaluations, {"steps": evaluations + 1, "predictor": "fastdiff"}
    if not quick:
        yield "euler_maruyama", 499, {"steps": 500}


def coverage(posterior: Any, options: dict[str, object], rounds: int, draws: int) -> str:
    """The share of parameters within the central 50 % and 90 % of their draws, given what they made: a calibration."""
    theta = posterior.prior.sample((rounds,))
    drawn = posterior.sample_batched(torch.Size([draws]), two_moons(theta), **options, **QUIET)
    rank = (drawn < theta).double().mean(0)
    return " / ".join(f"{float(((rank - 0.5).abs() < share / 2).double().mean()):.2f}" for share in (0.5, 0.9))


def compared(posteriors: dict[str, Any], quick: bool) -> tuple[list[tuple], dict[str, Tensor]]:
    """The lines of the table, and samples given the first observation by name."""
    torch.manual_seed(1)
    count, rounds = (50, 4) if quick else (1000, 100)
    seen = torch.tensor([[0.0, 0.0], [-0.3, 0.2]])[: 1 if quick else 2]
    exact = [exact_posterior(x, count) for x in seen]

    def distance(drawn: list[Tensor]) -> str:
        return f"{sum(map(sliced_distance, drawn, exact)) / len(exact):.4f}"

    again = distance([exact_posterior(x, count) for x in seen])
    lines, shown = [("exact", "exact", "", again, "0.50 / 0.90")], {"exact": exact[0]}
    for network, posterior in posteriors.items():
        for name, evaluations, options in samplers(quick):
            drawn = [posterior.sample((count,), x=x, **options, **QUIET) for x in seen]
            within = coverage(posterior, options, rounds, 49) if evaluations <= 10 else ""
            lines.append((network, name, evaluations, distance(drawn), within))
            shown[f"{network}, {name}, {evaluations}"] = drawn[0]
    return lines, shown


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little training, few samples")
    parser.add_argument("--out", type=Path, help="folder for the picture")
    asked = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    import fastdiff.hosts.sbi  # noqa: F401  registers the predictor

    simulations, epochs = (300, 2) if asked.quick else (10_000, 100)
    lines, shown = compared(trained(simulations, epochs), asked.quick)
    print(table(("network", "sampler", "evaluations", "sliced W1", "within 50 % / 90 %"), lines))
    if asked.out is not None:
        draw(asked.out, shown)


def draw(folder: Path, shown: dict[str, Tensor]) -> None:
    """inference.png in the folder: the two parameters of NPSE's posterior, drawn in several ways."""
    from matplotlib.figure import Figure

    names = [
        name for name in shown if name == "exact" or (name.startswith("NPSE") and name.split(", ")[2] in "4 10 499")
    ]
    figure = Figure(figsize=(2.4 * len(names), 2.7), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(
            1, len(names), i + 1, title=name.removeprefix("NPSE, "), xlim=(-0.6, 0.6), ylim=(-0.6, 0.6)
        )
        axes.scatter(*shown[name].T.tolist(), s=1, linewidths=0, color="black")
        axes.set_aspect("equal")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "inference.png", dpi=80)


if __name__ == "__main__":
    main()

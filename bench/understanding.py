"""Which modes are drawn, and how often, by solver and number of steps; and the maps of an ensemble.

    python -m bench.understanding         # minutes on one core; writes bench/results/understanding.md and .png

Mixtures have modes of known weights, the rarest far less likely than the commonest; digits have classes by a classifier
that never saw the judged half. No sampler has to be better than as many exact samples, which stand first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import chi2
from torch import Tensor

import fastdiff as fd
from fastdiff import demo
from fastdiff.inspection import Coverage, coverage, draw_maps, maps

from .digits_metrics import DigitsJudge
from .machine import processor
from .markdown import table

RESULTS = Path(__file__).parent / "results" / "understanding.md"
SAMPLES, DIGITS, NEIGHBOURS = 1000, 300, 5
MEMBERS = 24
STEPS = (4, 6, 10)
SOLVERS: dict[str, tuple[str | None, dict[str, object]]] = {
    "ddim": ("ddim", {"grid": "time"}),
    "dpmpp_2m": ("dpmpp_2m", {"grid": "time"}),
    "default": (None, {}),
    "ddim, eta 1": ("ddim", {"grid": "time", "eta": 1.0}),
}
SHARES = ("precision", "density", "recall", "coverage")
HEAD = ("solver", "NFE", "modes", "wrong mass", "rarest", "outside", *SHARES)
DIGITS_HEAD = ("solver", "NFE", "classes", "wrong mass", "rarest", "unsure", *SHARES)


@dataclass(frozen=True)
class Mixture:
    """Round modes of one width at `centres` [K, d], the weight of each `fall` times that of the one before."""

    name: str
    schedule: fd.Schedule
    prediction: str
    centres: Tensor
    width: float
    fall: float

    @property
    def weights(self) -> Tensor:
        powers = self.fall ** torch.arange(len(self.centres), dtype=torch.float64)
        return powers / powers.sum()

    def exact(self, seed: int) -> tuple[Tensor, Tensor]:
        """Samples [SAMPLES, d] and their modes."""
        generator = torch.Generator().manual_seed(seed)
        modes = torch.multinomial(self.weights, SAMPLES, replacement=True, generator=generator)
        shape = (SAMPLES, self.centres.shape[1])
        return self.centres[modes] + self.width * torch.randn(shape, generator=generator, dtype=torch.float64), modes

    def model(self, x: Tensor, t: Tensor) -> Tensor:
        """epsilon or flow of the exact posterior mean; all samples of a call are at one time."""
        alpha, sigma = (float(value) for value in self.schedule.at(float(t[0]))[1:])
        variance = (alpha * self.width) ** 2 + sigma**2
        share = (self.weights.log() - torch.cdist(x, alpha * self.centres).square() / (2 * variance)).softmax(1)
        centre = share @ self.centres
        data = centre + alpha * self.width**2 / variance * (x - alpha * centre)
        noise = (x - alpha * data) / sigma if sigma > 0 else torch.zeros_like(x)
        return noise if self.prediction == "epsilon" else noise - data

    def draw(self, solver: str | None, options: dict[str, object], steps: int) -> Tensor:
        plan = fd.plan(solver, self.schedule, steps, prediction=self.prediction, **options)
        noise = fd.noise.randn((SAMPLES, self.centres.shape[1]), range(SAMPLES), dtype=torch.float64)
        return fd.sample(self.model, plan, noise, seeds=range(SAMPLES))


def mixtures() -> Iterator[Mixture]:
    """On a ring and in 64 dimensions, on the straight path and on Stable Diffusion's schedule."""
    angle = 2 * torch.pi * torch.arange(8, dtype=torch.float64) / 8
    ring = 2**0.5 * torch.stack([angle.cos(), angle.sin()], 1)
    wide = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind, schedule, prediction in (
        ("flow", fd.Schedule.flow(), "flow_prediction"),
        ("vp", fd.Schedule.scaled_linear(), "epsilon"),
    ):
        yield Mixture(f"{kind}: 8 modes on a ring", schedule, prediction, ring, 0.1, 0.6)
        yield Mixture(f"{kind}: 20 modes in 64 dimensions", schedule, prediction, wide, 0.1, 0.8)


def line(title: str, steps: object, modes: Tensor, weights: Tensor, odd: float, shares: Coverage) -> tuple[object, ...]:
    """A row. modes: of the drawn. odd: the share in the column before the last four."""
    found = torch.bincount(modes, minlength=len(weights)).double() / len(modes)
    wrong, rarest = (found - weights).abs().sum() / 2, int(weights.argmin())
    hit = f"{int((found > 0).sum())} of {len(weights)}"
    ratio = f"{float(found[rarest] / weights[rarest]):.2f}"
    cells = [f"{getattr(shares, name):.3f}" for name in SHARES]
    return title, steps, hit, f"{float(wrong):.3f}", ratio, f"{odd:.3f}", *cells


def mixture_rows(mixture: Mixture) -> Iterator[tuple[object, ...]]:
    real, _ = mixture.exact(0)
    farthest = mixture.width * chi2.ppf(0.999, mixture.centres.shape[1]) ** 0.5

    def row(title: str, steps: object, x: Tensor) -> tuple[object, ...]:
        distance, modes = torch.cdist(x, mixture.centres).min(1)
        outside = float((distance > farthest).double().mean())
        return line(title, steps, modes, mixture.weights, outside, coverage(real, x, k=NEIGHBOURS))

    yield row("exact samples", "", mixture.exact(1)[0])
    for title, (solver, options) in SOLVERS.items():
        for steps in STEPS:
            yield row(title, steps, mixture.draw(solver, options, steps))


def digits_rows() -> Iterator[tuple[object, ...]]:
    net, judge = demo.network("digits"), DigitsJudge()
    half = len(judge.fitted)
    real, classes = (torch.from_numpy(part) for part in (judge.reference, judge.labels[half:]))
    weights = torch.bincount(classes).double() / len(classes)

    def features(x: Tensor) -> Tensor:
        return torch.from_numpy(judge.features(np.clip(x.double().flatten(1).numpy(), -1, 1)))

    def row(title: str, steps: object, x: Tensor) -> tuple[object, ...]:
        probability = judge.classifier.predict_proba(x.double().flatten(1).clamp(-1, 1).numpy())
        unsure = float((probability.max(1) < 0.9).mean())
        shares = coverage(real, x, features=features, k=NEIGHBOURS)
        return line(title, steps, torch.from_numpy(probability.argmax(1)), weights, unsure, shares)

    yield row("real digits", "", torch.from_numpy(judge.fitted[:DIGITS]))
    for title, (solver, options) in SOLVERS.items():
        for steps in STEPS:
            plan = fd.plan(solver, net.schedule, steps, prediction=net.prediction, **options)
            noise = fd.noise.randn((DIGITS, *net.shape), range(DIGITS))
            yield row(title, steps, fd.sample(net.model, plan, noise, seeds=range(DIGITS)))


def terrain_maps(path: Path) -> str:
    """Draw the maps of heights given an eighth of them, and say how spread and error go together."""
    net = demo.network("terrain")
    truth = net.examples[:4]
    seen = torch.rand(truth.shape[-2:], generator=torch.Generator().manual_seed(0)) < 1 / 8
    observation = fd.Observation(lambda x: x[..., seen], truth[..., seen], noise=0.05)
    plan = fd.plan("dpm_solver_2m", net.schedule, 12, grid="quadratic", prediction=net.prediction)
    members = fd.ensemble(net.model, plan, (4, *net.shape), MEMBERS, observation=observation)
    draw_maps(members, path, truth, item=2)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)
    found = maps(members, truth)
    spread, error = found["spread"][..., ~seen].flatten(), found["error"][..., ~seen].flatten()
    together = float(torch.corrcoef(torch.stack([spread, error]))[0, 1])
    ranks = found["rank"][..., ~seen].flatten()
    inside = float(((ranks > 0.05) & (ranks < 0.95)).double().mean())
    sizes = (float(of.square().mean().sqrt()) for of in (spread, error))
    return (
        f"{MEMBERS} members of {len(truth)} terrains from an eighth of their heights, {plan.nfe} evaluations: the root"
        " mean square of the spread is {:.3f}, of the error of the mean {:.3f};".format(*sizes)
        + f" their correlation is {together:.2f}; {100 * inside:.0f} % of the truth has between 5 and 95 % of the"
        " members below it."
    )


def main() -> None:
    """Measure, and write the page and the picture."""
    parts = [
        "# Which modes are drawn",
        f"`python -m bench.understanding`, torch {torch.__version__}, {processor()}. {SAMPLES} samples of mixtures"
        f" through their exact posterior mean; {DIGITS} digits without a label beside the half of the real ones that"
        f" the classifier has not seen; k = {NEIGHBOURS}. wrong mass: half of the sum over modes of |share drawn -"
        " weight|; rarest: the share of the least likely mode over its weight; outside: the share of samples beyond"
        " the radius that holds 99.9 % of a mode; unsure: the share to which the classifier gives no class 90 %. The"
        " grid is uniform in time but for the default.",
    ]
    parts += ["## The maps of an ensemble", terrain_maps(RESULTS.with_suffix(".png"))]
    for mixture in mixtures():
        parts += [f"## {mixture.name}", table(HEAD, mixture_rows(mixture))]
        RESULTS.write_text("\n\n".join(parts) + "\n")
    parts += ["## digits", table(DIGITS_HEAD, digits_rows())]
    RESULTS.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()

"""What each guidance method is for: the shipped digits network, method by method and scale by scale.

    python -m bench.guided_digits                          # into bench/results/guided_digits.json, .md and .png
    python -m bench.guided_digits --quick --out build/quick

A classifier of the real digits says how many samples show the digit that was asked for, recall how much of the real
digits' variety is left, saturation how many pixels leave the range of the data. What is in the JSON file is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo, guidance
from fastdiff.sampling.noise import randn

from .digits_metrics import DigitsJudge, coverage
from .guided_digits_report import write
from .store import Store

RESULTS = Path(__file__).parent / "results"
SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
STEPS = 20
SAMPLES = 250

METHODS: dict[str, Callable[[float], guidance.Guidance]] = {
    "CFG": guidance.CFG,
    "CFG, rescale 0.7": lambda g: guidance.CFG(g, rescale=0.7),
    "CFG, sigma / alpha in (0.2, 3)": lambda g: guidance.CFG(g, interval=(0.2, 3.0)),
    "CFG, linear": lambda g: guidance.CFG(g, schedule="linear"),
    # Chung et al. pair lambda 0.2 to 1 with scales of 2 to 12.5.
    "CFG++, lambda = g / 12.5": lambda g: guidance.CFGpp(g / 12.5),
    "APG": guidance.APG,
    "APG, momentum -0.5, norm 2.5": lambda g: guidance.APG(g, norm=2.5, momentum=-0.5),
    "Zero*": lambda g: guidance.ZeroStar(g, 1),
    "Tangential": guidance.Tangential,
    "Magnitude": guidance.Magnitude,
}


def draw(method: guidance.Guidance | None, seeds: range) -> tuple[Tensor, Tensor, int]:
    """Samples of digits in turn, their labels, and the evaluations of the network for each."""
    plan = fd.plan("dpmpp_2m", demo.schedule(), STEPS, prediction=demo.PREDICTION)
    noise, labels = randn((len(seeds), *demo.SHAPE), list(seeds)), torch.tensor(list(seeds)) % demo.NUM_CLASSES
    uncond = {"y": torch.full((1,), demo.NUM_CLASSES)}
    evaluations = 0

    def count(step: fd.Step) -> None:
        nonlocal evaluations
        evaluations += step.evaluations

    x = fd.sample(demo.load_model(), plan, noise, guidance=method, uncond=uncond, callback=count, y=labels)
    assert isinstance(x, Tensor)
    return x, labels, evaluations


def measure(judge: DigitsJudge, x: Tensor, labels: Tensor, evaluations: int) -> dict[str, float]:
    """agreement, precision, recall, saturation (share of pixels outside of [-1.05, 1.05]) and contrast against real."""
    images = x.double().flatten(1).numpy()
    precision, recall = coverage(judge.features(np.clip(images, -1, 1)), judge.features(judge.reference))
    return {
        "agreement": judge.measure(images, labels.numpy())["agreement"],
        "precision": precision,
        "recall": recall,
        "saturation": float((np.abs(images) > 1.05).mean()),
        "contrast": float(images.std(1).mean() / judge.real.std(1).mean()),
        "evaluations": evaluations,
    }


def run(out: Path, samples: int, scales: tuple[float, ...]) -> None:
    """Measure what is not there yet and write the report."""
    store, judge = Store(out / "guided_digits.json"), DigitsJudge()
    for name, method in METHODS.items():
        for scale in scales:
            key = {"method": name, "scale": scale, "samples": samples}
            if not store.has(key):
                store.add(key, [measure(judge, *draw(method(scale), range(samples)))])
    if not store.has({"method": "real digits"}):
        labels = torch.from_numpy(judge.labels[: len(judge.fitted)])
        store.add({"method": "real digits"}, [measure(judge, torch.from_numpy(judge.fitted), labels, 0)])
    pictured = (scales[0], scales[len(scales) // 2], scales[-1])
    write(store, out, samples, {(n, g): draw(m(g), range(10))[0] for n, m in METHODS.items() for g in pictured})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="few samples and scales, to see that it runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run(options.out, 40 if options.quick else SAMPLES, SCALES[::3] if options.quick else SCALES)


if __name__ == "__main__":
    main()

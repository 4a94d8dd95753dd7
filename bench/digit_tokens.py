"""The demo's digits as tokens by every rule: scores of a classifier and Frechet distances, against calls.

python -m bench.digit_tokens: bench/results/digit_tokens.md and digit_tokens.png. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import fastdiff as fd
from fastdiff import demo
from fastdiff.commands import pictures
from fastdiff.demo.data import digit_tokens

from .digits_metrics import DigitsJudge
from .markdown import table

RESULTS = Path(__file__).parent / "results"
STEPS = (2, 4, 8, 16)
KEYS = ("agreement", "top_probability", "frechet_components", "nearest")
SHOWN = 20


def plans(steps: int) -> dict[str, fd.tokens.Plan]:
    """The rules that are told the number of steps."""
    return {
        "random, uniform sizes": fd.tokens.plan("random", steps),
        "random, cosine sizes": fd.tokens.plan("random", steps, sizes="cosine"),
        "confidence": fd.tokens.plan("confidence", steps, sizes="cosine"),
        "margin": fd.tokens.plan("margin", steps, sizes="cosine"),
        "entropy": fd.tokens.plan("entropy", steps, sizes="cosine"),
        "remdm, eta 0.02": fd.tokens.plan(fd.tokens.ReMDM(0.02), steps),
    }


def measured(judge: DigitsJudge, tokens: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """The scores of tokens [N, 64], as cells."""
    scores = judge.measure((tokens / 2 - 1).numpy(), labels.numpy())
    return [f"{scores[key]:.2f}" for key in KEYS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    net, judge, count = demo.token_network("digit-tokens"), DigitsJudge(), arguments.samples
    assert isinstance(net, demo.DigitTokens)
    labels = torch.arange(count) % 10
    lines, rows = [], []
    for steps in STEPS:
        for name, plan in plans(steps).items():
            with torch.autocast("cpu", torch.bfloat16):
                x = fd.tokens.sample(net.model, plan, net.blank(count), net.mask_id, seeds=range(count), y=labels)
            lines.append([name, steps, *measured(judge, x, labels)])
            print(*lines[-1], flush=True)
            if steps in (4, 16):
                rows.append((f"{name}\n{steps} calls", _strip(net.to_images(x[:SHOWN]))))
    data = digit_tokens()
    real = measured(judge, data.x, data.y)
    rows.insert(
        0, ("data", _strip(net.to_images(data.x[data.y.argsort(stable=True)[:: len(data.x) // SHOWN]][:SHOWN])))
    )
    pictures.png(pictures.captioned(rows))(arguments.out / "digit_tokens.png")
    head = ["rule", "calls", "agreement", "confidence", "Frechet", "nearest"]
    text = f"""# The demo's digits as tokens by every rule

`python -m bench.digit_tokens`, {count} samples of 64 tokens of five grey levels, all classes in turn, the same seeds
for every plan. Agreement: how often a classifier of the real digits names the class that was asked for; confidence:
its mean top probability; Frechet: distance from half of the real digits in 30 principal components; nearest: median
distance from the nearest real digit, over that among real ones, near 0 for copies.

{table(head, [*sorted(lines, key=lambda line: str(line[0])), ["the data, in five levels", "", *real]])}
"""
    (arguments.out / "digit_tokens.md").write_text(text)


def _strip(images: np.ndarray) -> np.ndarray:
    return pictures.mosaic(images, columns=SHOWN, scale=4)


if __name__ == "__main__":
    main()

"""The table and the picture of bench/guided_digits.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastdiff import demo

from .machine import processor
from .store import Store

MAGNIFIED = 5  # pixels a side for each of a digit's
CELL = 8 * MAGNIFIED + 2
COLUMNS = {
    "agreement": "{:.2f}",
    "recall": "{:.2f}",
    "precision": "{:.2f}",
    "saturation": "{:.3f}",
    "contrast": "{:.2f}",
}


def write(store: Store, out: Path, samples: int, drawn: dict[tuple[str, float], Tensor]) -> None:
    """guided_digits.md and .png. drawn: by method and scale the same ten noises, digits 0 to 9."""
    real = store.select(method="real digits")[0]
    rows = store.select(samples=samples)
    methods, scales = list(dict.fromkeys(r["method"] for r in rows)), sorted({r["scale"] for r in rows})
    parts = [
        "# Guidance on the shipped digits network",
        f"`python -m bench.guided_digits`, torch {torch.__version__}, {processor()}: {samples} samples in 20 steps of"
        " dpmpp_2m. Agreement: the share that a classifier of real digits takes for the digit asked for. Recall and"
        " precision: how much of the real digits' variety the samples cover, and how many of them lie among real digits"
        " (Kynkaanniemi et al. 2019, 3 neighbours, in the classifier's hidden layer). Saturation: the share of pixels"
        " outside of [-1.05, 1.05]. Contrast: the pixels' standard deviation over the real digits'.",
        "![ten digits by method and scale](guided_digits.png)",
    ]
    for name, form in COLUMNS.items():
        head = [f"| {name} | " + " | ".join(f"g = {g:g}" for g in scales) + " |", "|---" * (len(scales) + 1) + "|"]
        lines = [
            f"| {method} | " + " | ".join(_cell(store, method, g, samples, name, form) for g in scales) + " |"
            for method in methods
        ]
        parts.append(
            "\n".join([*head, *lines, f"| real digits | {form.format(real[name])} |" + " |" * (len(scales) - 1)])
        )
    counts = [f"{m} {store.select(method=m, scale=scales[-1], samples=samples)[0]['evaluations']}" for m in methods]
    parts.append("Evaluations of the network for a sample at the largest scale: " + ", ".join(counts) + ".")
    (out / "guided_digits.md").write_text("\n\n".join(parts) + "\n")
    _picture(methods, sorted({g for _, g in drawn}), drawn).save(out / "guided_digits.png")


def _cell(store: Store, method: str, scale: float, samples: int, name: str, form: str) -> str:
    return form.format(store.select(method=method, scale=scale, samples=samples)[0][name])


def _picture(methods: list[str], scales: list[float], drawn: dict[tuple[str, float], Tensor]) -> Image.Image:
    """A row a method, ten digits a scale."""
    left, top, gap = 200, 22, 12
    width = left + len(scales) * (10 * CELL + gap)
    picture = Image.new("L", (width, top + len(methods) * (CELL + 6)), 255)
    pen = ImageDraw.Draw(picture)
    for column, scale in enumerate(scales):
        pen.text((left + column * (10 * CELL + gap), 5), f"g = {scale:g}", fill=0)
    for row, method in enumerate(methods):
        y = top + row * (CELL + 6)
        pen.text((4, y + 6), method, fill=0)
        for column, scale in enumerate(scales):
            for k, image in enumerate(demo.to_images(drawn[method, scale])):
                tile = Image.fromarray(255 - np.kron(image, np.ones((MAGNIFIED, MAGNIFIED), np.uint8)))
                picture.paste(tile, (left + column * (10 * CELL + gap) + k * CELL, y))
    return picture

"""Matcha-TTS' `BASECFM`: Euler on uniform times, 10 of them where its command is not told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from matcha.models.components.flow_matching import BASECFM
from torch import Tensor

import fastdiff as fd
from fastdiff.hosts import matcha_tts

from ..mixtures import Shape, predictor
from .row import EVALUATIONS, SAMPLES, SHAPES, Row, error, mean_of, parity, version

DEFAULT = 10
FLOW = fd.Schedule.flow()


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        yield from _rows(shape, f"BASECFM, {shape.name}")


def _rows(shape: Shape, use: str) -> Iterator[Row]:
    decoder = BASECFM(shape.size, SimpleNamespace(solver="euler"))
    model = predictor(mean_of(shape), FLOW, "flow_prediction")

    def estimator(x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: None, cond: None) -> Tensor:
        return -model(x[:, :, 0], 1 - t[None])[:, :, None]

    decoder.estimator = estimator
    mu, mask = torch.zeros(SAMPLES, shape.size, 1, dtype=torch.float64), torch.ones(SAMPLES, 1, 1)

    def draw(steps: int) -> Tensor:
        torch.manual_seed(0)
        return decoder(mu, mask, steps)

    def hosted(steps: int, solver: str | None = None) -> Tensor:
        handle = matcha_tts.patch(decoder, solver)
        try:
            return draw(steps)
        finally:
            handle.undo()

    converged = hosted(2000, "midpoint")
    for steps in EVALUATIONS:
        own = draw(steps)
        errors = error(own, converged), error(hosted(steps), converged)
        same = parity(hosted(steps, "euler"), own)
        yield Row(
            "matcha-tts", version("matcha-tts"), use, steps, "Euler", errors[0], "default", errors[1], same,
            steps == DEFAULT,
        )  # fmt: skip

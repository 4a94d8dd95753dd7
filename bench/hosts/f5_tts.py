"""F5-TTS' `CFM.sample`: Euler on its pruned and swayed times, with guidance as it infers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from f5_tts.model.cfm import CFM
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.hosts import f5_tts

from ..mixtures import Shape, posterior_mean, predictor
from .row import EVALUATIONS, SAMPLES, SHAPES, Row, error, parity, version

FLOW = fd.Schedule.flow()
STRENGTH = 2.0  # cfg_strength, a scale of 3
OWN = {"Euler, EPSS and sway": {"sway_sampling_coef": -1.0}, "Euler, uniform": {"use_epss": False}}


class Transformer(nn.Module):
    """The velocities of two laws, of a class and of all, each frame a sample."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dim = shape.size
        self.place = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        laws = posterior_mean(shape, 1.0, 200, guidance=1.0), posterior_mean(shape, 1.0, 200)
        self.conditional, self.unconditional = (predictor(law, FLOW, "flow_prediction") for law in laws)

    def forward(self, x: Tensor, time: Tensor, cfg_infer: bool = False, **unused: Any) -> Tensor:
        frames, t = x.flatten(0, 1), 1 - time.double()[None]
        outputs = [self.conditional(frames, t), *([self.unconditional(frames, t)] if cfg_infer else [])]
        return -torch.cat(outputs).view(-1, *x.shape[1:])

    def clear_cache(self) -> None:
        """As the package's networks have it."""


class Mel(nn.Module):
    """Stands for the spectrogram, which no sample needs."""

    n_mel_channels = 1


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        for strength, title in ((STRENGTH, "guided by 3"), (0.0, "unguided")):
            yield from _rows(shape, strength, f"CFM.sample, {title}, {shape.name}")


def _rows(shape: Shape, strength: float, use: str) -> Iterator[Row]:
    model = CFM(Transformer(shape), mel_spec_module=Mel(), num_channels=shape.size)
    cond = torch.zeros(SAMPLES // 2, 1, shape.size, dtype=torch.float64)
    text = torch.full((SAMPLES // 2, 1), -1)

    def draw(steps: int, **options: Any) -> Tensor:
        torch.manual_seed(0)
        _, trajectory = model.sample(cond, text, 2, steps=steps, cfg_strength=strength, **options)
        return trajectory[-1].flatten(0, 1)

    def hosted(steps: int, solver: str | None = None, **options: Any) -> Tensor:
        handle = f5_tts.patch(model, solver, guided=strength > 0)
        try:
            return draw(steps, **options)
        finally:
            handle.undo()

    converged = hosted(2000, "midpoint", use_epss=False)
    for steps in (*EVALUATIONS, 32):
        ours = error(hosted(steps), converged)
        for name, options in OWN.items():
            own = draw(steps, **options)
            same = parity(hosted(steps, "euler", **options), own)
            found = version("f5-tts")
            yield Row("f5-tts", found, use, steps, name, error(own, converged), "default", ours, same, steps == 32)

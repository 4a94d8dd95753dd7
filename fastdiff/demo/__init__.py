"""The demo model that ships with fastdiff: 8x8 handwritten digits, drawn by class or without one.

    model = demo.load_model()
    v = model(x, t, y)   # x [B, 1, 8, 8], t [B] in [0, 999], y [B] int64 in 0..9; 10 or None is "no label"

Beside it lie small networks of other kinds, predictions and schedules, to try samplers on:

    net = demo.network("mnist")  # one of demo.networks()
    x = fd.sample(net.model, plan, noise, **net.conditions(seeds))

Two more draw tokens, text and digits of five grey levels: `demo.token_network("text")`, in `fastdiff.demo.tokens`.

Trained by `fastdiff.demo.train` on data of ordinary packages, which sampling does not need. The plans that ship with it
(`fitted_plan`) are what `fastdiff fit --steps N --out fastdiff/demo/plans/N.json` makes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .catalogue import DIGITS
from .loading import WEIGHTS, read
from .network import DemoNetwork, network, networks, statistics
from .tokens import DigitTokens, TextNetwork, TokenNetwork, token_network, token_networks

__all__ = [
    "NUM_CLASSES",
    "PREDICTION",
    "SHAPE",
    "DemoNetwork",
    "DigitTokens",
    "TextNetwork",
    "TokenNetwork",
    "fitted_plan",
    "fitted_steps",
    "load_model",
    "network",
    "networks",
    "schedule",
    "statistics",
    "to_images",
    "token_network",
    "token_networks",
]

PREDICTION = DIGITS.prediction
SHAPE = DIGITS.shape
NUM_CLASSES = DIGITS.num_classes

PLANS = Path(__file__).parent / "plans"


def schedule() -> Schedule:
    """The schedule the model was trained on: squared cosine, 1000 steps (Nichol & Dhariwal 2021, eq. 17)."""
    return DIGITS.schedule


def load_model(folder: str | Path = WEIGHTS) -> nn.Module:
    """The trained network in float32, in eval mode and without gradients.

    folder: where digits.json and digits.safetensors lie; by default the shipped ones, else an output folder of
    `fastdiff.demo.train`. Raises ValueError naming the file that is not there or not readable, weights that are not the
    ones whose checksum digits.json holds, and a description of another network than theirs.
    """
    return read(DIGITS, Path(folder))[0]


def fitted_steps() -> list[int]:
    """The numbers of model evaluations for which a fitted plan ships."""
    return sorted(int(path.stem) for path in PLANS.glob("*.json"))


def fitted_plan(steps: int) -> Plan:
    """The plan of `steps` model evaluations that was fitted to this model, drawn without guidance."""
    if steps not in fitted_steps():
        raise ValueError(f"steps: expected one of {', '.join(map(str, fitted_steps()))} for a fitted plan, got {steps}")
    return Plan.load(PLANS / f"{steps}.json")


def to_images(x: Tensor) -> np.ndarray:
    """Samples [B, 1, 8, 8] in [-1, 1] as grey levels [B, 8, 8] uint8; what lies outside is clipped."""
    if x.ndim != 4 or tuple(x.shape[1:]) != SHAPE:
        raise ValueError(f"x: expected shape [B, 1, 8, 8], got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("x: expected finite numbers, got NaN or infinity")
    return ((x[:, 0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

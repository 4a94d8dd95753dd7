"""The demo model that ships with fastdiff: 8x8 handwritten digits, drawn by class or without one.

    model = demo.load_model()
    v = model(x, t, y)   # x [B, 1, 8, 8], t [B] in [0, 999], y [B] int64 in 0..9; 10 or None is "no label"

Trained by `fastdiff.demo.train` on scikit-learn's digits; sampling needs no scikit-learn. The plans that ship with it
(`fitted_plan`) are what `fastdiff fit --steps N --out fastdiff/demo/plans/N.json` makes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from ..plans.plan import Plan
from ..plans.schedule import Schedule
from .unet import UNet

__all__ = ["NUM_CLASSES", "PREDICTION", "SHAPE", "fitted_plan", "fitted_steps", "load_model", "schedule", "to_images"]

PREDICTION = "v_prediction"
SHAPE = (1, 8, 8)
NUM_CLASSES = 10

WEIGHTS = Path(__file__).parent / "weights"
PLANS = Path(__file__).parent / "plans"


def schedule() -> Schedule:
    """The schedule the model was trained on: squared cosine, 1000 steps (Nichol & Dhariwal 2021, eq. 17)."""
    return Schedule.cosine(1000)


def load_model(folder: str | Path = WEIGHTS) -> nn.Module:
    """The trained network in float32, in eval mode and without gradients.

    folder: where digits.json and digits.safetensors lie; by default the shipped ones, else an output folder of
    `fastdiff.demo.train`. Raises ValueError naming the file that is not there or not readable, weights that are not the
    ones whose checksum digits.json holds, and a description of another network than theirs.
    """
    description = _description(Path(folder) / "digits.json")
    path = Path(folder) / "digits.safetensors"
    weights = _bytes(path)
    expected, got = description["sha256"], hashlib.sha256(weights).hexdigest()
    if got != expected:
        raise ValueError(f"{path}: truncated or altered: expected sha256 {expected}, got {got}")
    try:
        model = UNet(**description["model"])
        model.load_state_dict({name: value.float() for name, value in load(weights).items()})
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{folder}: digits.json describes another network than the weights': {error}") from error
    return model.eval().requires_grad_(False)


def fitted_steps() -> list[int]:
    """The numbers of model evaluations for which a fitted plan ships."""
    return sorted(int(path.stem) for path in PLANS.glob("*.json"))


def fitted_plan(steps: int) -> Plan:
    """The plan of `steps` model evaluations that was fitted to this model, drawn without guidance."""
    if steps not in fitted_steps():
        raise ValueError(f"steps: expected one of {', '.join(map(str, fitted_steps()))} for a fitted plan, got {steps}")
    return Plan.load(PLANS / f"{steps}.json")


def _description(path: Path) -> dict:
    """Read digits.json: the checksum of the weights and the network's size."""
    try:
        description = json.loads(_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: truncated or altered: expected JSON ({error})") from None
    if not isinstance(description, dict) or not {"sha256", "model"} <= description.keys():
        raise ValueError(f"{path}: truncated or altered: expected the keys sha256 and model")
    return description


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); expected a folder that fastdiff.demo.train wrote"
        raise ValueError(f"{path}: {reason}") from None


def to_images(x: Tensor) -> np.ndarray:
    """Samples [B, 1, 8, 8] in [-1, 1] as grey levels [B, 8, 8] uint8; what lies outside is clipped."""
    if x.ndim != 4 or tuple(x.shape[1:]) != SHAPE:
        raise ValueError(f"x: expected shape [B, 1, 8, 8], got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("x: expected finite numbers, got NaN or infinity")
    return ((x[:, 0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

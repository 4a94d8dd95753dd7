"""Inputs of nodes as ComfyUI declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Widget = tuple[Any, ...]


def number(default: float, low: float, high: float, tooltip: str, step: float = 0.01) -> Widget:
    """A FLOAT."""
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step, "round": step / 10, "tooltip": tooltip}


def count(default: int, low: int, high: int, tooltip: str) -> Widget:
    """An INT."""
    return "INT", {"default": default, "min": low, "max": high, "tooltip": tooltip}


def choice(options: Sequence[str], tooltip: str, **default: str) -> Widget:
    """A COMBO of names; it begins with `default`, or with the first of them."""
    return list(options), {**default, "tooltip": tooltip}


def text(default: str, tooltip: str) -> Widget:
    """A STRING."""
    return "STRING", {"default": default, "tooltip": tooltip}


def window(start: float = 0.0, end: float = 1.0) -> dict[str, Widget]:
    """start_percent and end_percent, of the model's time: the same noise levels with any number of steps."""
    where = "of the way from noise (0) to the image (1). The same noise level with any number of steps."
    return {
        "start_percent": number(start, 0.0, 1.0, f"Guidance begins here, {where}", 0.001),
        "end_percent": number(end, 0.0, 1.0, f"Guidance ends here, {where}", 0.001),
    }


SEED: Widget = (
    "INT",
    {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Of the noises.", "control_after_generate": True},
)
SCALE = number(8.0, 0.0, 100.0, "The guidance scale; 1 is the positive prompt alone.", 0.1)


def socket(kind: str, tooltip: str) -> Widget:
    """An input that another node gives."""
    return kind, {"tooltip": tooltip}


def layers(text: str) -> list[int]:
    """The layers' numbers in a text such as "7, 8, 9". Raises ValueError for anything else."""
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"layers: expected numbers such as '7, 8, 9', got {text!r}") from None

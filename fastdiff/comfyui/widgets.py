"""Inputs of nodes as ComfyUI declares them."""

from __future__ import annotations

from typing import Any

Widget = tuple[Any, ...]


def number(default: float, low: float, high: float, tooltip: str, step: float = 0.01) -> Widget:
    """A FLOAT."""
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step, "round": step / 10, "tooltip": tooltip}


def count(default: int, low: int, high: int, tooltip: str) -> Widget:
    """An INT."""
    return "INT", {"default": default, "min": low, "max": high, "tooltip": tooltip}


def window(start: float = 0.0, end: float = 1.0) -> dict[str, Widget]:
    """start_percent and end_percent, of the model's time: the same noise levels with any number of steps."""
    where = "of the way from noise (0) to the image (1). The same noise level with any number of steps."
    return {
        "start_percent": number(start, 0.0, 1.0, f"Guidance begins here, {where}", 0.001),
        "end_percent": number(end, 0.0, 1.0, f"Guidance ends here, {where}", 0.001),
    }


MODEL: Widget = ("MODEL", {"tooltip": "The model to guide. Any earlier guidance of these nodes is replaced."})
CONDITIONING: Widget = ("CONDITIONING",)
SCALE = number(8.0, 0.0, 100.0, "The guidance scale; 1 is the positive prompt alone.", 0.1)


def layers(text: str) -> list[int]:
    """The layers' numbers in a text such as "7, 8, 9". Raises ValueError for anything else."""
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"layers: expected numbers such as '7, 8, 9', got {text!r}") from None

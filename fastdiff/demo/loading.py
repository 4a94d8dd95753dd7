"""The two files of a network: NAME.safetensors and its description NAME.json, whole and each other's, or an error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

from .catalogue import Kind

WEIGHTS = Path(__file__).parent / "weights"
EXAMPLES = "examples."  # begins the names of what is no weight


def read(kind: Kind, folder: Path) -> tuple[nn.Module, dict[str, Tensor], dict]:
    """The network in float32, eval mode and without gradients, its examples x and y, and its description.

    Raises ValueError naming the file that is not there or not readable, weights that are not the ones whose checksum
    the description holds, and a description of another network than theirs.
    """
    description = _description(folder / f"{kind.name}.json")
    path = folder / f"{kind.name}.safetensors"
    weights = _bytes(path)
    expected, got = description["sha256"], hashlib.sha256(weights).hexdigest()
    if got != expected:
        raise ValueError(f"{path}: truncated or altered: expected sha256 {expected}, got {got}")
    try:
        tensors = {name: value.float() for name, value in load(weights).items()}
        examples = {name: tensors.pop(EXAMPLES + name) for name in ("x", "y")}
        model = kind.build(**description["model"])
        model.load_state_dict(tensors)
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RuntimeError) as error:
        reason = f"{kind.name}.json describes another network than the weights': {error}"
        raise ValueError(f"{folder}: {reason}") from error
    return model.eval().requires_grad_(False), examples, description


def _description(path: Path) -> dict:
    """Read a description: the checksum of the weights, the network's size and the data's statistics."""
    text = _bytes(path)
    try:
        description = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: truncated or altered: expected JSON ({error})") from None
    if not isinstance(description, dict) or not {"sha256", "model", "statistics"} <= description.keys():
        raise ValueError(f"{path}: truncated or altered: expected the keys sha256, model and statistics")
    return description


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); expected a folder that fastdiff.demo.train wrote"
        raise ValueError(f"{path}: {reason}") from None

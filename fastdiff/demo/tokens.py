"""The demo's networks that draw tokens: a language model and digits of five grey levels.

net = demo.token_network("text")
x = fd.tokens.sample(net.model, plan, net.blank(4), net.mask_id, seeds=range(4), y=torch.arange(4))
print(net.write(x)[0])
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..tokens import Curve, Plan, information_curve
from ..tokens import plan as make_plan
from .byte_pairs import BytePairs
from .catalogue import DIGIT_TOKENS, TEXT
from .loading import WEIGHTS, read

KINDS = {kind.name: kind for kind in (TEXT, DIGIT_TOKENS)}
CLASSES = {
    TEXT.name: ("law", "history", "wisdom", "prophets", "gospels", "letters"),
    DIGIT_TOKENS.name: tuple("0123456789"),
}
VOCABULARY = "text.vocabulary.json"
CALLS, KNOTS = 128, 33  # to measure an information curve, and what is kept of it
MASK_SIGN = "_"
MASKS = re.compile(r"\s*(_+)")  # a word's space is part of its first token


@dataclass(frozen=True)
class TokenNetwork:
    """A trained network of masked tokens: logits [B, N, V] = model(tokens [B, N], y=labels [B]), N <= length.

    mask_id: the mask, the last of the V tokens. classes: the names of the labels 0, 1, ...; len(classes) is "no label".
    examples, labels: 16 of the data, kept from the training, and their classes.
    curve: the information curve of the network on the examples, from which `plan` has its sizes.
    """

    name: str
    model: nn.Module
    length: int
    mask_id: int
    classes: tuple[str, ...]
    examples: Tensor
    labels: Tensor
    curve: Curve

    def plan(self, steps: int) -> Plan:
        """Random order with the sizes that were fitted to the network. Raises ValueError: 1 <= steps <= length."""
        return make_plan("random", sizes=self.curve.best(steps))

    def blank(self, count: int, length: int | None = None) -> Tensor:
        """Masks [count, length], to be filled."""
        return torch.full((count, self.length if length is None else length), self.mask_id)

    def uncond(self) -> dict[str, Tensor]:
        """What the model is told for guidance's other half: no label, y [1]."""
        return {"y": torch.full((1,), len(self.classes))}


@dataclass(frozen=True)
class TextNetwork(TokenNetwork):
    """The language model: 128 tokens of `vocabulary`, which are pieces of words."""

    vocabulary: BytePairs

    def read(self, text: str, length: int | None = None) -> Tensor:
        """Tokens [N] of a text in which each sign _ is a masked token, and masks behind it up to `length`.

        Without length a text with masks keeps its own, and another has the model's. Raises ValueError for a sign that
        the vocabulary does not have, and for more tokens than `length` or the model allows.
        """
        whole = MASKS.split((" " + text) if text and not text[0].isspace() else text)
        tokens = [number for part in whole for number in self._numbers(part)]
        own = len(tokens) if MASK_SIGN in text else self.length
        length = own if length is None else length
        if not len(tokens) <= length <= self.length:
            raise ValueError(
                f"text: expected at most {min(length, self.length)} tokens, got {len(tokens)}"
                if length <= self.length
                else f"length: expected at most {self.length} tokens, got {length}"
            )
        return torch.tensor(tokens + [self.mask_id] * (length - len(tokens)))

    def write(self, tokens: Tensor) -> list[str]:
        """The texts of tokens [B, N]; what is still masked is _."""
        pieces = [*self.vocabulary.pieces, MASK_SIGN]
        return ["".join(pieces[number] for number in row).strip() for row in tokens.tolist()]

    def _numbers(self, part: str) -> list[int]:
        if part.startswith(MASK_SIGN):
            return [self.mask_id] * len(part)
        return self.vocabulary.encode(part)


@dataclass(frozen=True)
class DigitTokens(TokenNetwork):
    """Digits of 8x8 tokens, row by row: 0 to 4 are grey levels from black to white."""

    def to_images(self, tokens: Tensor) -> np.ndarray:
        """Grey levels [B, 8, 8] uint8 of tokens [B, 64]; what is still masked is middle grey."""
        levels = torch.tensor([0, 64, 128, 191, 255, 128], dtype=torch.uint8)
        return levels[tokens.cpu()].reshape(-1, 8, 8).numpy()


def token_networks() -> tuple[str, ...]:
    """The names of the networks of tokens that ship."""
    return tuple(KINDS)


def token_network(name: str, folder: str | Path = WEIGHTS) -> TokenNetwork:
    """The network of tokens of this name: "text" or "digit-tokens".

    folder: where NAME.json and NAME.safetensors lie; by default the shipped ones, else an output folder of
    `fastdiff.demo.train`. Raises ValueError for an unknown name, and as `load_model` does for its files.
    """
    if name not in KINDS:
        raise ValueError(f"name: expected one of {', '.join(KINDS)}, got {name!r}")
    kind = KINDS[name]
    model, examples, description = read(kind, Path(folder))
    x, y = examples["x"].long(), examples["y"].long()
    curve = _curve(description["statistics"], kind.shape[0], Path(folder) / f"{name}.json")
    parts = (name, model, kind.shape[0], kind.vocabulary - 1, CLASSES[name], x, y, curve)
    if name == TEXT.name:
        return TextNetwork(*parts, BytePairs.load(WEIGHTS / VOCABULARY))
    return DigitTokens(*parts)


def described(model: nn.Module, mask_id: int, examples: Tensor, labels: Tensor) -> dict[str, list]:
    """What the description of a network keeps of its curve: the places measured, and nats a token there."""
    curve = information_curve(model, examples, mask_id, calls=CALLS, y=labels)
    knots = np.linspace(0, curve.length - 1, KNOTS).round().astype(int)
    return {"knots": knots.tolist(), "curve": [round(float(value), 4) for value in curve.values[knots]]}


def _curve(saved: dict, length: int, path: Path) -> Curve:
    """Raises ValueError naming the file."""
    try:
        knots, values = np.array(saved["knots"], dtype=np.int64), np.array(saved["curve"], dtype=np.float64)
        whole = len(knots) == len(values) > 0 and knots[0] == 0 and (np.diff(knots) > 0).all() and knots[-1] < length
        if whole and np.isfinite(values).all():
            return Curve(length, knots, values[None])
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path}: truncated or altered: expected statistics with knots and the curve there")

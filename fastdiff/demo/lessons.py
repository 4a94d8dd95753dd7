"""What is learnt from which data: one entry for each network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from . import data, texts
from .catalogue import AUTOENCODER, COLOUR, DIGIT_TOKENS, DIGITS, LATENT, MNIST, SERIES, TERRAIN, TEXT, Kind


@dataclass(frozen=True)
class Lesson:
    """A network, its data, and where its recipe differs from `Recipe`'s numbers."""

    kind: Kind
    data: Callable[[], data.Data]
    recipe: dict[str, int | float] = field(default_factory=dict)


SHORT = {"warmup": 200, "ema": 0.998}  # for runs of a few thousand steps
SMALL = {"warmup": 200, "batch": 32, "ema": 0.0}  # for shorter ones: the rate ends at zero, which averages enough
TEXTUAL = {"warmup": 30, "batch": 32, "ema": 0.98, "dropout": 0.0, "learning_rate": 4e-3, "decay": 0.5}

LESSONS = {
    lesson.kind.name: lesson
    for lesson in (
        Lesson(DIGITS, data.all_digits),
        Lesson(MNIST, data.mnist, SHORT),
        Lesson(COLOUR, data.photographs, SMALL),
        Lesson(SERIES, data.stocks, SMALL),
        Lesson(AUTOENCODER, data.large_mnist, SMALL),
        Lesson(LATENT, data.latents, SMALL),
        Lesson(TERRAIN, data.terrain, SMALL),
        Lesson(TEXT, texts.texts, TEXTUAL),
        Lesson(DIGIT_TOKENS, data.digit_tokens, TEXTUAL | {"batch": 64, "dropout": 0.1, "masking": 200}),
    )
}

"""What each network of the demo is: its shape, its numbers and the schedule and prediction it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..plans.schedule import Schedule
from .autoencoder import Autoencoder
from .dit import DiT
from .edm import Preconditioned
from .masked import MaskedTransformer
from .unet import UNet


@dataclass(frozen=True)
class Kind:
    """A kind of network: `build(**config)` makes it with random weights."""

    name: str
    build: Callable[..., nn.Module]
    config: dict[str, Any]


@dataclass(frozen=True)
class Diffusion(Kind):
    """A kind of diffusion model. num_classes: 0 without labels. decoder: of the autoencoder whose latents it draws."""

    schedule: Schedule
    prediction: str
    shape: tuple[int, ...]
    num_classes: int = 0
    decoder: Kind | None = None


@dataclass(frozen=True)
class Masked(Kind):
    """A kind of network that fills in masked tokens. vocabulary: the number of tokens; the last is the mask."""

    vocabulary: int
    shape: tuple[int, ...]
    num_classes: int


def preconditioned_unet(sigma_data: float = 0.5, **config: int) -> nn.Module:
    """A U-Net that predicts clean data through the preconditioning of Karras et al. 2022."""
    return Preconditioned(UNet(**config), sigma_data)


DIGITS = Diffusion(
    "digits",
    UNet,
    {"width": 64, "depth": 2, "embedding": 128, "num_classes": 10},
    Schedule.cosine(1000),
    "v_prediction",
    (1, 8, 8),
    num_classes=10,
)
MNIST = Diffusion(
    "mnist",
    DiT,
    {"size": 14, "channels": 1, "patch": 2, "width": 96, "depth": 3, "heads": 3, "hidden": 192, "num_classes": 10},
    Schedule.flow(shift=2.0),
    "flow_prediction",
    (1, 14, 14),
    num_classes=10,
)

COLOUR = Diffusion(
    "colour",
    preconditioned_unet,
    {"width": 32, "depth": 1, "num_classes": 0, "channels": 3, "levels": 3, "patch": 2, "head_dim": 16},
    Schedule.edm(0.002, 80.0),
    "sample",
    (3, 32, 32),
)
SERIES = Diffusion(
    "series",
    UNet,
    {"width": 48, "depth": 1, "num_classes": 0, "channels": 2, "levels": 3, "patch": 4, "axes": 1, "head_dim": 16},
    Schedule.linear(),
    "epsilon",
    (2, 256),
)
AUTOENCODER = Kind("autoencoder", Autoencoder, {"width": 32, "latent": 4})
LATENT = Diffusion(
    "latent",
    UNet,
    {"width": 48, "depth": 1, "num_classes": 10, "channels": 4, "head_dim": 16},
    Schedule.scaled_linear(),
    "epsilon",
    (4, 7, 7),
    num_classes=10,
    decoder=AUTOENCODER,
)
TERRAIN = Diffusion(
    "terrain",
    UNet,
    {"width": 48, "depth": 1, "num_classes": 0, "channels": 1, "patch": 2, "head_dim": 16},
    Schedule.scaled_linear().zero_terminal_snr(),
    "v_prediction",
    (1, 16, 16),
)


def masked(name: str, vocabulary: int, length: int, num_classes: int, **size: int | tuple[int, ...]) -> Masked:
    """A masked transformer of tokens [length]."""
    config = {"vocabulary": vocabulary, "length": length, "num_classes": num_classes, **size}
    return Masked(name, MaskedTransformer, config, vocabulary, (length,), num_classes)


TEXT = masked("text", 1024, 128, 6, width=160, depth=5, heads=5, hidden=480, offsets=(-2, -1, 0, 1, 2))
AROUND = (-9, -8, -7, -1, 0, 1, 7, 8, 9)  # a pixel among eight others, in rows of eight
DIGIT_TOKENS = masked("digit-tokens", 6, 64, 10, width=96, depth=4, heads=3, hidden=256, offsets=AROUND)

KINDS = {kind.name: kind for kind in (DIGITS, MNIST, LATENT, TERRAIN, COLOUR, SERIES)}
SHIPPED = ("digits", "mnist", "latent", "terrain", "colour", "series")  # those whose weights are in the package

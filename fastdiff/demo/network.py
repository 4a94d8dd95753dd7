"""The networks that ship with fastdiff, each with all that is needed to sample from it and to judge the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..plans.schedule import Schedule
from .catalogue import KINDS, SHIPPED, Kind
from .loading import WEIGHTS, read


@dataclass(frozen=True)
class DemoNetwork:
    """A trained network: `fastdiff.sample(net.model, plan, noise, **net.conditions(seeds))`.

    model: float32, in eval mode, called as model(x, t, **conditions): x [B, *shape], t [B] in the schedule's units.
    num_classes: labels y [B] are 0 to num_classes - 1, and num_classes means none; 0 where the network takes no labels.
    decode: samples [B, *shape] to data in its natural units; the identity where the network draws the data itself.
    examples, labels: 16 of the data, as the network draws them, and their classes. All but the digits' were kept from
    the training.
    statistics: of the data, for each name that `statistics(decode(x))` has, its mean and standard deviation over x.
    """

    name: str
    model: nn.Module
    schedule: Schedule
    prediction: str
    shape: tuple[int, ...]
    num_classes: int
    decode: Callable[[Tensor], Tensor]
    examples: Tensor
    labels: Tensor
    statistics: dict[str, tuple[float, float]]

    def conditions(self, seeds: Iterable[int]) -> dict[str, Tensor]:
        """What the model is told for these seeds: y = seed % num_classes, or nothing."""
        return {"y": torch.tensor(list(seeds)) % self.num_classes} if self.num_classes else {}

    def uncond(self) -> dict[str, Tensor]:
        """What the model is told for guidance's other half: no label, y [1]; nothing where there are none."""
        return {"y": torch.full((1,), self.num_classes)} if self.num_classes else {}


def networks() -> tuple[str, ...]:
    """The names of the networks that ship, the digits first."""
    return SHIPPED


def network(name: str, folder: str | Path = WEIGHTS) -> DemoNetwork:
    """The network of this name.

    folder: where NAME.json and NAME.safetensors lie; by default the shipped ones, else an output folder of
    `fastdiff.demo.train`. Raises ValueError for an unknown name, and as `load_model` does for its files.
    """
    if name not in KINDS:
        raise ValueError(f"name: expected one of {', '.join(KINDS)}, got {name!r}")
    kind = KINDS[name]
    model, examples, description = read(kind, Path(folder))
    parts = (kind.schedule, kind.prediction, kind.shape, kind.num_classes, decoder(kind.decoder))
    moments = {key: tuple(value) for key, value in description["statistics"].items()}
    return DemoNetwork(name, model, *parts, examples["x"], examples["y"].long(), moments)


def decoder(autoencoder: Kind | None) -> Callable[[Tensor], Tensor]:
    """The shipped decoder of a network's samples."""
    if autoencoder is None:
        return lambda x: x.clone()
    model: Any = read(autoencoder, WEIGHTS)[0]
    return model.decode


def statistics(x: Tensor) -> dict[str, Tensor]:
    """Of each sample x [B, ...] three numbers [B]: mean, standard deviation, root mean square step along the last axis.

    The step is the difference of neighbours: white noise of deviation s has sqrt(2) s, smooth data much less.
    """
    deviation = x.flatten(1).std(1, correction=0)
    step = x.diff(dim=-1).flatten(1).square().mean(1).sqrt()
    return {"mean": x.flatten(1).mean(1), "deviation": deviation, "step": step}

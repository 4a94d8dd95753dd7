"""What a `StepBatch` was made for, and what its samples are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import checks

Told = dict[str, Tensor]


class Options(NamedTuple):
    """The arguments of `StepBatch`, checked.

    told: for each keyword what a sample is told that says nothing of its own. uncond: the same of the unconditional
    evaluation, for the keywords where it differs; None where there is no guidance. rows: the most in use at a time.
    buffers: how many there can be; None for any number.
    """

    shape: tuple[int, ...]
    slots: int
    dtype: torch.dtype
    device: torch.device
    static: bool
    rows: int
    buffers: int | None
    told: Told
    uncond: Told | None

    @property
    def told_without(self) -> Told | None:
        """What the unconditional evaluation is told of a sample that says nothing, for every keyword."""
        return None if self.uncond is None else {**self.told, **self.uncond}

    def tell(
        self, conditions: Mapping[str, object] | None, uncond: Mapping[str, object] | None, n: int
    ) -> tuple[Told, Told]:
        """Tensors [n, ...] for both evaluations of n samples. Raises TypeError or ValueError naming the argument."""
        conditions, uncond = conditions or {}, uncond or {}
        if uncond and self.uncond is None:
            raise ValueError("uncond: the batch was made without, so it knows no guidance; pass uncond= to StepBatch")
        for argument, given in (("conditions", conditions), ("uncond", uncond)):
            for name in given:
                if name not in self.told:
                    raise ValueError(f"{argument}: the batch was made for {', '.join(self.told) or 'none'}, got {name}")
        told = {name: one.expand(n, *one.shape) for name, one in self.told.items()}
        told |= {k: self._samples(f"conditions[{k!r}]", k, v, n) for k, v in conditions.items()}
        other = told | {k: one.expand(n, *one.shape) for k, one in (self.uncond or {}).items()}
        return told, other | {k: self._samples(f"uncond[{k!r}]", k, v, n) for k, v in uncond.items()}

    def _samples(self, argument: str, name: str, value: object, n: int) -> Tensor:
        like = self.told[name]
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{argument}: expected a tensor or numbers, got {type(value).__name__}") from error
        if tensor.is_floating_point() and not like.is_floating_point():
            raise TypeError(f"{argument}: expected {like.dtype}, got {tensor.dtype}")
        shape = (n, *like.shape)
        try:
            return tensor.to(like.device, like.dtype, non_blocking=True).expand(shape).clone()
        except RuntimeError as error:
            raise ValueError(
                f"{argument}: expected a shape that expands to {shape}, got {tuple(tensor.shape)}"
            ) from error


def check_sizes(shape: Sequence[int], **sizes: int) -> None:
    """Raises ValueError naming the argument."""
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"shape: expected whole numbers >= 0, got {shape!r}")
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected a whole number >= 1, got {size!r}")


def check_told(conditions: Told, uncond: Told | None) -> None:
    """Raises ValueError where the two kinds of evaluations are told things of different shapes."""
    for name, tensor in (uncond or {}).items():
        if name not in conditions:
            raise ValueError(f"uncond: expected keywords that conditions has too, got {name}")
        checks.require_shape(f"uncond[{name!r}]", tensor, tuple(conditions[name].shape))
        checks.require_dtype(f"uncond[{name!r}]", tensor, conditions[name].dtype)

"""A model of points made equivariant in law: a random frame for every call, undone in what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..sampling.noise import randn, seed_tensor
from .centre import check_points, mean_point, weights_of
from .rigid import align as aligned
from .rigid import random_rotations

MOVED = ("sample",)  # outputs that are points themselves, and move with them
TURNED = ("epsilon", "v_prediction", "flow_prediction", "score")  # outputs that are differences, and only turn
TURN, SHIFT = 0x5EED, 0x5EEE  # the noises' indices, far from those of a run


class Equivariant:
    """The model of `equivariant`."""

    def __init__(
        self,
        model: Callable[..., Any],
        prediction: str,
        mask: Tensor | None,
        translation: float,
        align: bool,
        seeds: Sequence[int] | Tensor | None,
    ) -> None:
        self.model, self.prediction, self.mask = model, prediction, mask
        self.translation, self.align, self.seeds = translation, align, seeds

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        """The model's prediction in the frame of x [B, N, 3], at t [B]. Raises TypeError or ValueError naming x."""
        check_points("x", x, self.mask)
        if x.shape[2] != 3:
            raise ValueError(f"x: expected points in three dimensions, got {x.shape[2]}")
        weights = weights_of(x, self.mask)
        middle = mean_point(x, weights)
        rotation, shift = self._frame(x, t)
        turned = (x - middle) @ rotation.mT + shift
        output = self.model(turned, t, **kwargs)
        output = getattr(output, "sample", output)
        if self.prediction in TURNED:
            return output @ rotation.to(output.dtype)
        back = (output - shift) @ rotation.to(output.dtype) + middle
        return aligned(back, x, self.mask) if self.align else back

    def _frame(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """A rotation [B, 3, 3] and a translation [B, 1, 3] for each sample."""
        if self.seeds is None:
            turn, shift = (torch.randn(len(x), n, dtype=x.dtype, device=x.device) for n in (4, 3))
        else:
            # A frame belongs to a seed and a time: no state, and no value of t is read on the host.
            keys = seed_tensor(self.seeds, len(x), x.device) ^ _bits(t).expand(len(x))
            options: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
            turn, shift = (randn((len(x), n), keys, index=j, **options) for n, j in ((4, TURN), (3, SHIFT)))
        return random_rotations(len(x), turn), self.translation * shift[:, None]


def equivariant(
    model: Callable[..., Any],
    *,
    prediction: str = "sample",
    mask: Tensor | None = None,
    translation: float = 0.0,
    align: bool = False,
    seeds: Sequence[int] | Tensor | None = None,
) -> Equivariant:
    """The model asked in a random frame at every call, and its answer taken back to the caller's frame.

        f'(x, t) = R^T (f(R (x - c) + b, t) - b) + c        of points: prediction="sample"
        f'(x, t) = R^T f(R (x - c) + b, t)                  of differences: "epsilon", velocities, scores

    with c the mean of the points, R uniform over rotations and b ~ N(0, translation^2). AlphaFold 3 (Abramson et al.
    2024, algorithms 18 and 19) and its kin turn x itself before each step, which leaves a multistep solver nothing to
    build on: what it remembers lies in another frame. Around the model the law of the samples is the same, up to a
    rigid motion, and the history keeps one frame.

    model: model(x [B, N, 3], t [B], **kwargs) -> [B, N, 3]. mask: [B, N] or [N], 1 at points, 0 at padding.
    translation: of frames, in the units of x; 0 for models of centred points. align: of "sample"; move each answer
    rigidly onto x (Kabsch), as Boltz does. seeds: B whole numbers: the frame of a sample then depends on its seed and
    on t alone, in any batch; from torch's generator if None. Models that are equivariant themselves need none of this.
    Raises TypeError or ValueError naming the argument.
    """
    if not callable(model):
        raise TypeError(f"model: expected a function or a module, got {type(model).__name__}")
    if prediction not in (*MOVED, *TURNED):
        raise ValueError(f"prediction: expected one of {', '.join((*MOVED, *TURNED))}, got {prediction!r}")
    if align and prediction not in MOVED:
        raise ValueError(f"align: expected prediction='sample', which is points, got {prediction!r}")
    if not translation >= 0:
        raise ValueError(f"translation: expected a number >= 0, got {translation!r}")
    return Equivariant(model, prediction, mask, translation, align, seeds)


def _bits(t: Tensor) -> Tensor:
    """Whole numbers that differ where the times do."""
    return t.float().contiguous().view(torch.int32).long() * 0x9E3779B1

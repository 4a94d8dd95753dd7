"""PhysicsNeMo's network as a function of x and sigma: its conditions, patches and labels."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

PRECONDITIONERS = "physicsnemo.diffusion.preconditioners"


class Network:
    """D(x, sigma) [B, C, H, W] in x's dtype, of a network that reads conditions and, with patching, patches.

    Raises ValueError as PhysicsNeMo does, where sizes do not agree.
    """

    def __init__(
        self,
        net: Any,
        latents: Tensor,
        img_lr: Tensor,
        class_labels: Tensor | None,
        patching: Any,
        mean_hr: Tensor | None,
        lead_time_label: Tensor | None,
    ) -> None:
        _check(latents, img_lr, patching, mean_hr)
        condition = img_lr
        if mean_hr is not None:
            condition = torch.cat((mean_hr.expand(len(img_lr), -1, -1, -1), img_lr), dim=1)
        self._net, self._patching, self._batch = net, patching, len(img_lr)
        self._labels = class_labels
        self._options: dict[str, Any] = {}
        if lead_time_label is not None:
            self._options["lead_time_label"] = lead_time_label
        if patching:
            condition = patching.apply(input=condition, additional_input=img_lr)
            self._options["embedding_selector"] = self._embedding
        self._condition = condition.to(latents.device)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, C, H, W], sigma a scalar."""
        read = self._patching.apply(input=x) if self._patching else x
        if _conditions_by_name(self._net):
            d = self._net(read, sigma, condition=self._condition, class_labels=self._labels, **self._options)
        else:
            d = self._net(read, self._condition, sigma, self._labels, **self._options)
        return self._patching.fuse(input=d, batch_size=self._batch) if self._patching else d

    def _embedding(self, emb: Tensor) -> Tensor:
        """The positional embedding [N, H, W] of each patch."""
        return self._patching.apply(emb.expand(self._batch, -1, -1, -1))


def _conditions_by_name(net: Any) -> bool:
    """Whether it is an EDMPrecond: then its module has been imported."""
    kind = getattr(sys.modules.get(PRECONDITIONERS), "EDMPrecond", None)
    return kind is not None and isinstance(net, kind)


def _check(latents: Tensor, img_lr: Tensor, patching: Any, mean_hr: Tensor | None) -> None:
    def same(name: str, other: str, a: Any, b: Any, what: str) -> None:
        if a != b:
            raise ValueError(f"{name} and {other} must have the same {what}, but found {a} vs {b}.")

    size = "height and width"
    if mean_hr is not None:
        same("mean_hr", "img_lr", mean_hr.shape[-2:], img_lr.shape[-2:], size)
    if patching is not None:
        from physicsnemo.diffusion.multi_diffusion import GridPatching2D

        if not isinstance(patching, GridPatching2D):
            raise ValueError("patching must be an instance of GridPatching2D.")
        same("img_lr", "latents", img_lr.shape[-2:], latents.shape[-2:], size)
    same("img_lr", "latents", img_lr.shape[0], latents.shape[0], "batch size")

"""An ensemble as pictures: what it says in the mean, how sure it is, and where it was wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write
from ..posterior.uncertainty import Ensemble

INCHES, DPI = 2.2, 100  # of a panel
COLOURS = {"truth": "viridis", "mean": "viridis", "spread": "magma", "error": "magma", "rank": "RdBu_r"}


def maps(ensemble: Ensemble, truth: Tensor | None = None) -> dict[str, Tensor]:
    """The maps [G, ...] by name: mean and spread of the members, and with truth [G, ...] also

        error  |mean - truth|, which the spread should be of the size of
        rank   the share of members below the truth: in [0, 1], even over a calibrated ensemble

    Raises TypeError or ValueError naming the argument.
    """
    found = {"mean": ensemble.mean, "spread": ensemble.spread}
    if truth is None:
        return found
    rank = ensemble.below(truth)
    return {"truth": truth, **found, "error": (ensemble.mean - truth.to(ensemble.mean)).abs(), "rank": rank}


def draw_maps(ensemble: Ensemble, path: str | Path, truth: Tensor | None = None, *, item: int = 0) -> None:
    """Write the maps of one observation as a PNG: a column for each map, a row for each channel.

    The shape of a member is [H, W] or [C, H, W]; of a volume [C, D, H, W] the middle slice is shown. truth: [G, ...].
    item: which of the G. Truth and mean share their colours, spread and error theirs. Needs matplotlib, which
    `pip install 'fastdiff[ensemble]'` brings. Raises TypeError or ValueError naming the argument.
    """
    if not 0 <= item < len(ensemble.mean):
        raise ValueError(f"item: expected from 0 to {len(ensemble.mean) - 1}, got {item}")
    panels = {name: _images(found[item]) for name, found in maps(ensemble, truth).items()}
    figure = _figure(panels)
    write(Path(path), lambda partial: figure.savefig(partial, format="png", dpi=DPI))


def _images(x: Tensor) -> Tensor:
    """[C, H, W] float32 on the CPU."""
    if not 2 <= x.ndim <= 4:
        raise ValueError(f"ensemble: expected members [H, W], [C, H, W] or [C, D, H, W], got {tuple(x.shape)}")
    x = x[:, x.shape[1] // 2] if x.ndim == 4 else x
    return x.reshape(-1, *x.shape[-2:]).detach().float().cpu()


def _figure(panels: dict[str, Tensor]) -> Any:
    matplotlib = _matplotlib()
    rows, columns = len(panels["mean"]), len(panels)
    figure = matplotlib.figure.Figure(figsize=(INCHES * columns, INCHES * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.01, 0.02, 0.97, 0.9, 0.2, 0.05)  # a layout of so many is slow to compute
    limits = _limits(panels)
    for column, (name, images) in enumerate(panels.items()):
        for row, image in enumerate(images):
            axis, (low, high) = axes[row, column], limits[name][row]
            axis.set_axis_off()
            shown = axis.imshow(image.numpy(), cmap=COLOURS[name], vmin=low, vmax=high)
            axis.set_title(name if row == 0 else "", fontsize=9)
            figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.03).ax.tick_params(labelsize=6)
    return figure


def _limits(panels: dict[str, Tensor]) -> dict[str, list[tuple[float, float]]]:
    """(low, high) of the colours of each map and channel."""
    values = torch.stack([panels[name] for name in ("truth", "mean") if name in panels], 1).flatten(1)
    sizes = torch.stack([panels[name] for name in ("spread", "error") if name in panels], 1).flatten(1)
    ends = list(zip(values.amin(1).tolist(), values.amax(1).tolist(), strict=True))
    from_zero = [(0.0, high) for high in sizes.amax(1).tolist()]
    own = {"rank": [(0.0, 1.0)] * len(ends), "spread": from_zero, "error": from_zero}
    return {name: own.get(name, ends) for name in panels}


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError("draw_maps: pip install 'fastdiff[ensemble]', which brings matplotlib") from error
    return matplotlib

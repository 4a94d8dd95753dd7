"""The kept samples of a trace as the page shows them: panels of pictures, or plots with a frame for each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .measures import flow_state, levels_of
from .record import Record
from .thumbnails import data_uris, framed, side_by_side

MOST_PICTURES = 16
BUDGETS = {"x0": 1_300_000, "x": 600_000, "eps": 600_000}  # characters of all pictures of a panel
SPREAD = 2.0  # standard deviations of the noise from black to white, beside the data
TITLES = {"x0": "x0, the predicted data", "x": "x, the state", "eps": "eps, the predicted noise"}
Decode = Callable[[Tensor], Tensor]


def picture_panels(trace: Record, view: str, decode: Decode | None) -> list[dict[str, Any]]:
    """Panels with a row of pictures for each state: name, title and frames [n + 1] of [K] data URIs."""
    return [
        {"name": name, "title": TITLES[name], "frames": data_uris(_frames(trace, name, view, decode), BUDGETS[name])}
        for name in ("x0", "x", "eps")
    ]


def _frames(trace: Record, name: str, view: str, decode: Decode | None) -> list[np.ndarray]:
    """Of each state the pictures [K, H, W] or [K, H, W, 3]; x0's last frame is the result."""
    tensors = getattr(trace, name)[:, :MOST_PICTURES].float()
    if name == "x0":
        tensors = torch.cat([tensors, trace.x[-1:, :MOST_PICTURES].float()])
    if name == "x0" and decode is not None:
        return [framed(_decoded(decode, frame), -1.0, 1.0) for frame in tensors]
    low, high = _range(_as_picture(trace.x[-1, :MOST_PICTURES].float(), view))
    # As wide as alpha x0 + sigma eps is: x and x0 look the same where there is no noise.
    scales = {"x0": [(1.0, 0.0)] * len(tensors), "x": levels_of(trace.plan), "eps": [(0.0, 1.0)] * len(tensors)}
    return [
        framed(_as_picture(frame, view), alpha * low - SPREAD * sigma, alpha * high + SPREAD * sigma)
        for frame, (alpha, sigma) in zip(tensors, scales[name], strict=True)
    ]


def _decoded(decode: Decode, x0: Tensor) -> Tensor:
    """[K, 1 or 3, H, W]. Raises ValueError where decode gives something else."""
    with torch.no_grad():
        images = torch.as_tensor(decode(x0)).float().cpu()
    if images.ndim != 4 or len(images) != len(x0) or images.shape[1] not in (1, 3):
        raise ValueError(f"decode: expected images [{len(x0)}, 1 or 3, H, W], got shape {tuple(images.shape)}")
    return images


def _as_picture(x: Tensor, view: str) -> Tensor:
    """[K, 1 or 3, H, W]."""
    x = x[:, :, x.shape[2] // 2] if x.ndim == 5 else x
    x = x[:, None] if x.ndim == 3 else x
    return side_by_side(x) if view == "channels" else x


def _range(x: Tensor) -> tuple[float, float]:
    """Black and white of x0: -1 and 1 where the data are in there, else the range of nearly all of the result."""
    known = x[torch.isfinite(x)]
    if not len(known) or float(known.abs().max()) <= 1.5:
        return -1.0, 1.0
    low, high = np.quantile(known.numpy(), [0.005, 0.995])
    return float(low), float(max(high, low + 1e-6))


MOST_SAMPLES, MOST_PLACES = 4, 256
NUMBERS = 400_000  # that the plots of samples may have in all, some three megabytes


def curve_panels(trace: Record) -> list[dict[str, Any]]:
    """Panels with lines: at each state [lines] of [points]; a line for each channel of the first samples."""
    length, count = trace.x.shape[-1], trace.x[:, :MOST_SAMPLES].numel() // trace.x.shape[-1]
    stride = math.ceil(length / max(8, min(MOST_PLACES, NUMBERS // (2 * count))))
    panels = []
    for name, tensors in (("x0", torch.cat([trace.x0, trace.x[-1:]])), ("x", trace.x)):
        lines = tensors[:, :MOST_SAMPLES, ..., ::stride]
        channels = 1 if lines.ndim == 3 else lines.shape[2]
        named = [
            {"label": f"sample {k}" + (f", channel {c}" if channels > 1 else ""), "sample": k, "channel": c}
            for k in range(lines.shape[1])
            for c in range(channels)
        ]
        frames = [rounded(frame.reshape(-1, frame.shape[-1])) for frame in lines]
        places = list(range(0, length, stride))
        panels.append({"name": name, "title": TITLES[name], "x": places, "lines": named, "frames": frames})
    return panels


MOST_POINTS, MOST_PATHS, BINS = 1024, 64, 60  # at most
HISTOGRAM_TITLE = "The numbers of z = x / (alpha + sigma) and of the x0 predicted there"
Z_TITLE = "z = x / (alpha + sigma), and the x0 predicted there"


def cloud_panels(trace: Record) -> list[dict[str, Any]]:
    """Points in the plane: at each state z and x0, [points] of two numbers; and the paths of some."""
    z, x0 = _flow_states(trace), torch.cat([trace.x0, trace.x[-1:]])
    most = max(8, min(MOST_POINTS, NUMBERS // (4 * len(z))))
    z, x0 = (v.reshape(len(v), -1, 2)[:, :most] for v in (z, x0))
    both = torch.cat([z.reshape(-1, 2), x0.double().reshape(-1, 2)])
    known = both[torch.isfinite(both).all(1)].numpy()
    low, high = np.quantile(known, [0.002, 0.998], axis=0) if len(known) else (np.full(2, -1.0), np.full(2, 1.0))
    margin = 0.08 * (high - low) + 1e-6
    frames = [[rounded(here.T), rounded(there.T)] for here, there in zip(z, x0, strict=True)]
    paths = [rounded(path.T) for path in z[trace.accepted, :MOST_PATHS].movedim(1, 0)]
    limits = np.stack([low - margin, high + margin], 1).round(4).tolist()
    return [{"name": "z", "title": Z_TITLE, "frames": frames, "paths": paths, "range": limits}]


def histogram_panels(trace: Record) -> list[dict[str, Any]]:
    """The distribution of the numbers of z and of x0 at each state: densities [2] of [bins]."""
    z, x0 = _flow_states(trace), torch.cat([trace.x0, trace.x[-1:]]).double()
    known = torch.cat([z.flatten(), x0.flatten()])
    known = known[torch.isfinite(known)]
    low, high = np.quantile(known.numpy(), [0.001, 0.999]) if len(known) else (-1.0, 1.0)
    bins = min(BINS, max(8, math.isqrt(z[0].numel())))
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    frames = [[_density(a, edges), _density(b, edges)] for a, b in zip(z, x0, strict=True)]
    places = ((edges[1:] + edges[:-1]) / 2).round(6).tolist()
    return [{"name": "values", "title": HISTOGRAM_TITLE, "x": places, "frames": frames}]


def _density(x: Tensor, edges: np.ndarray) -> list[float | None]:
    counts = np.histogram(x[torch.isfinite(x)].numpy(), edges)[0]
    return rounded(torch.from_numpy(counts / max(counts.sum(), 1) / np.diff(edges)))


def _flow_states(trace: Record) -> Tensor:
    """[n + 1, K, ...] z of the kept states."""
    return torch.stack([flow_state(x, *level) for x, level in zip(trace.x, levels_of(trace.plan), strict=True)])


def rounded(values: Tensor) -> Any:
    """The numbers in nested lists, to four significant digits or so; None where they are not finite."""
    if values.ndim > 1:
        return [rounded(v) for v in values]
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values.tolist()]

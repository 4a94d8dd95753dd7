"""Trace: what `fastdiff.trace` has noted of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import files
from .record import Record
from .table import table_of, text_of
from .trace_file import read_trace, write_trace


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Record):
    """A run of n evaluations of B samples, K of them kept; row i evaluates state i, and state n is the result.

    Lengths |v| are root mean squares over a sample's elements, in float64. NaN stands where there is nothing to say.

    plan: the run's rows: t, alpha, sigma, log_snr, whether they accept. result: [B, ...] as of `fastdiff.sample`.
    x: [n + 1, K, ...] states. x0, eps: [n, K, ...] predictions, x = alpha x0 + sigma eps.
    x_rms: [n + 1, B] the lengths of states. x0_rms, eps_rms: [n, B] those of predictions. change: [n, B] how much x0
        changed, |x0_i - x0_(i-1)|.
    angle: [n + 1, B] in degrees, the turn of the path at a state between the directions (z' - z) / (tau' - tau) before
        and after it, z = x / (alpha + sigma), tau = sigma / (alpha + sigma); 0 where x0 and eps have not changed.
        Stages inside a step are no part of the path.
    error: [n, B] |x* - x| / (alpha + sigma) at the last row of a step, x* being where it should have led from where it
        began. `reference` says how that is known. "estimate": the same step of the next higher order, with the output
        that the following evaluation gave: its leading error, so none of the last step. Noise is the step's own.
        "measured": the probability flow ODE in fine steps of the model.
    outputs, differences, cosines: [n, B, O] under guidance |m|, |c - m| and the cosine between c and m, for each m of
        `output_names`: c the conditional output, u the unconditional one, and others; O = 0 without guidance.
    weights: [n, B, 6] what multiplies c - u, u, c_2 - u, c_3 - u, x and the guidance's state (`fastdiff.guidance`); a
        method that is no weighted sum has none.
    finite: [n + 1, B] whether x and x0 were. evaluations: [n] of the network for each sample. seconds: [n, 2] of the
        model, and of the step (a correction included), without what noting it all took.
    """

    def table(self) -> np.ndarray:
        """One record for each state, the mean over the samples of every number; `print(trace)` shows it.

        Fields: i, t, sigma, alpha, log_snr, step (the next log_snr less this one), accepted, calls (evaluations), x,
        x0, eps, change, error, angle, deviation, under guidance the outputs' names, c-u and such, cos(c,u) and such,
        w_c and w_u (the weights of c - u and u), model_ms, step_ms, finite (the share of samples).
        """
        return table_of(self)

    def __repr__(self) -> str:
        return f"<Trace of {self.plan!r}: {len(self.result)} samples, {self.x.shape[1]} of them kept>"

    def __str__(self) -> str:
        return text_of(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to a safetensors file. `load` gives it back bit for bit."""
        files.write(Path(path), lambda place: write_trace(self, place))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Trace:
        """What `save` wrote. Raises ValueError where the file is no trace, or damaged; OSError where there is none."""
        return cls(**read_trace(Path(path)))

    def html(
        self,
        path: str | PathLike[str],
        *,
        decode: Callable[[Tensor], Tensor] | None = None,
        title: str = "",
        view: str | None = None,
    ) -> None:
        """Write one page that needs no network: a slider over the steps, plots, the kept samples, the table.

        decode: from x0 [K, ...] on the CPU to images [K, 1 or 3, H, W] in [-1, 1], for latents. title: the page's.
        view: what a sample is: "image", "channels", "curve", "cloud" (points in the plane) or "histogram" of its
            numbers; by its shape if None.
        Raises ImportError without plotly, which the extra `trace` installs; ValueError for a view that does not fit.
        """
        from .page import write_page  # pillow and plotly wait until a page is asked for

        files.write(Path(path), lambda place: write_page(self, place, decode, title, view))

"""The tables and the plot of bench/quality.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import quality_summary
from .machine import processor
from .markdown import number, table
from .quality_summary import FITS, SIZES, UNFITTED, earlier, spread
from .store import Store

TITLES = {
    "mixture": "a Gaussian mixture in 32 dimensions, exact posterior mean (EDM, sigma 80 to 0.002), 512 samples",
    "smoothed digits": "1797 real digits, each a Gaussian, 64 dimensions, exact posterior mean (flow), 512 samples",
    "digits": "the shipped digits network, conditional, no guidance (cosine), 256 samples",
    "digits, guided": "the shipped digits network, classifier-free guidance 3 (cosine), 128 samples",
    "mnist": "a DiT, 14 x 14, flow matching with shift 2, conditional, 128 samples",
    "mnist, guided": "the same with classifier-free guidance 3, 128 samples",
    "colour": "a U-Net with EDM's preconditioning, 3 x 32 x 32, predicts data, 128 samples",
    "series": "a 1-D U-Net, 2 x 256, linear betas, predicts the noise, 128 samples",
    "latent": "a conditional U-Net of latents 4 x 7 x 7, scaled linear betas, predicts the noise, 128 samples",
    "latent, guided": "the same with classifier-free guidance 3, 128 samples",
    "terrain": "a U-Net, 16 x 16, v-prediction, scaled linear betas with zero terminal SNR, 128 samples",
}
PLOTTED = ("ddim", "dpmpp_2m", "unipc", "unipc, order 3", "ipndm_v", "gradient_estimation")


def write(store: Store, out: Path) -> None:
    """quality.md and quality.png from the rows of quality.json."""
    problems = [name for name in TITLES if store.select(problem=name)]
    parts = [
        "# Error by number of model evaluations",
        f"`python -m bench.quality`, torch {torch.__version__}, {processor()}. Errors are the median, or the root mean"
        " square (RMSE), over samples of the root mean square distance from the converged solution, on noise that no"
        " fit has seen. Unfitted means every solver of the catalogue on four grids, and diffusers' and k-diffusion's"
        " own samplers on theirs; of each solver the grids that were best on 16 samples are judged on all, on the"
        " networks after the digits those within twice the best solver's. Behind an error stand the first letters of"
        " its grid. Converged are 400 steps of float64 and of the terrain network, 100 of the others.",
        "## Fitted plans against the best unfitted one, chosen in hindsight for each number of evaluations",
        "Forward fits from 8 and from 32 samples, and full fits from 256. Behind a fit's"
        " error stand its ratios to the least error of unfitted plans with as many evaluations: bold, to that of"
        " what peers offer; then to that of all. Of peers: the solvers and grids of diffusers, k-diffusion, ComfyUI and"
        " the official code of DPM-Solver, UniPC and DEIS. Of all: the whole catalogue on all of its grids too, with"
        " solvers that no peer has. A geometric mean says over how many problems. Earlier full fits are of the time"
        " before the forward fit was their first stage, from 640 to 4096 samples; the plans that ship are of them. ± is"
        " the standard deviation over five fits. Forward fits of the exact problems and those with 15 evaluations are"
        " of a former version, with seconds of a busy machine.",
        *quality_summary.tables(store, problems),
    ]
    for name in problems:
        parts += [f"## {name}: {TITLES[name]}", *(_errors(store, name, size) for size in SIZES)]
    parts += ["## Frechet distances", *(text for name in problems if (text := _frechet(store, name)))]
    (out / "quality.md").write_text("\n\n".join(parts) + "\n")
    _plot(store, problems, out / "quality.png")


def _errors(store: Store, problem: str, size: str) -> str:
    rows = [row for kind in UNFITTED for row in store.select(problem=problem, kind=kind)]
    counts = sorted({row["nfe"] for row in rows})
    lines = []
    for name in FITS:
        fits = [store.select(problem=problem, kind="fits", solver=name, nfe=nfe) for nfe in counts]
        if any(fits):
            lines.append([name, *(number(f[0][size]) if f else "-" for f in fits)])
    fits = [earlier(store, problem, nfe, size) for nfe in counts]
    if any(map(len, fits)):
        lines.append(["earlier full", *map(spread, fits)])
    for solver in dict.fromkeys(row["solver"] for row in rows):
        cells = []
        for nfe in counts:
            found = [row for row in rows if row["solver"] == solver and row["nfe"] == nfe]
            row = min(found, key=lambda row: row[size], default=None)
            cells.append("-" if row is None else f"{number(row[size])} {row['grid'][:2]}")
        lines.append([solver, *cells])
    return table([f"{SIZES[size]}, NFE", *counts], lines)


def _frechet(store: Store, problem: str) -> str | None:
    rows = store.select(problem=problem, kind="frechet")
    if not rows:
        return None
    keys = [key for key in rows[0] if key not in ("problem", "kind", "solver", "nfe")]
    lines = [[row["solver"], row["nfe"] or "", *(f"{row[key]:.3f}" for key in keys)] for row in rows]
    return f"**{problem}**\n\n" + table(["plan", "NFE", *keys], lines)


def _plot(store: Store, problems: list[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(problems))
    height = -(-len(problems) // columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(4.5 * columns, 4.2 * height), squeeze=False)
    for axis in axes.flat[len(problems) :]:
        axis.remove()
    for axis, problem in zip(axes.flat, problems, strict=False):
        rows = store.select(problem=problem)
        counts = sorted({row["nfe"] for row in rows if row["kind"] != "frechet"})
        for name in PLOTTED:
            _line(axis, [r for r in rows if r["solver"] == name], ".-", label=name)
        for name, style in zip(FITS, ("k:", "k--", "k-"), strict=True):
            _line(axis, [r for r in rows if r["kind"] == "fits" and r["solver"] == name], style, label=f"fit: {name}")
        axis.set(title=problem, xlabel="model evaluations", ylabel="median distance from the converged solution")
        axis.set_xticks(counts, labels=counts)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    named = {name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def _line(axis: Any, rows: list[dict], style: str, label: str) -> None:
    """The least median for each number of evaluations; nothing where there is none."""
    if not rows:
        return
    best = {n: min(r["median"] for r in rows if r["nfe"] == n) for n in sorted({r["nfe"] for r in rows})}
    axis.loglog(list(best), list(best.values()), style, label=label)

"""The tables and the plot of bench/quality.py."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch

from .machine import processor
from .store import Store

TITLES = {
    "mixture": "a Gaussian mixture in 32 dimensions, exact posterior mean (EDM, sigma 80 to 0.002), 512 samples",
    "smoothed digits": "1797 real digits, each a Gaussian, 64 dimensions, exact posterior mean (flow), 512 samples",
    "digits": "the shipped digits network, conditional, no guidance (cosine), 256 samples",
    "digits, guided": "the shipped digits network, classifier-free guidance 3 (cosine), 128 samples",
}
UNFITTED = ("catalogue", "peers")
# What the authors' own code offers, measured by the same solver of the catalogue: solver -> first letters of the grids.
OFFERED = {
    **dict.fromkeys(("dpm_solver_2s", "dpm_solver_3s", "dpm_solver_2m", "dpm_solver_3m", "dpm_solver_v3"), "tql"),
    **dict.fromkeys(("ddim", "dpmpp_2s", "dpmpp_3s", "dpmpp_2m", "dpmpp_3m", "unipc", "unipc, order 3"), "tql"),
    **dict.fromkeys(("deis", "deis_rhoab", "ipndm", "pndm"), "tqlk"),
    **dict.fromkeys(("gradient_estimation", "res_multistep"), "tlk"),
}
CROSSED = ((5, 10), (8, 20))
PLOTTED = ("ddim", "dpmpp_2m", "unipc", "unipc, order 3", "ipndm_v", "gradient_estimation")


def write(store: Store, out: Path) -> None:
    """quality.md and quality.png from the rows of quality.json."""
    problems = [name for name in TITLES if store.select(problem=name)]
    parts = [
        "# Error by number of model evaluations",
        f"`python -m bench.quality`, torch {torch.__version__}, {processor()}. Errors are the median, or the root mean"
        " square (RMSE), over samples of the root mean square distance from the converged solution, on noise that no"
        " fit has seen. Unfitted means every solver of the catalogue on four grids, and diffusers' and k-diffusion's"
        " own samplers on theirs; of each solver the grids that were best on 16 samples are judged on all. Behind an"
        " error stand the first letters of its grid.",
        "What is fitted was fitted as often as the column fits says, each time to other noise; ± is the standard"
        " deviation over the fits.",
        "## Fitted plans against the best unfitted one, chosen in hindsight for each number of evaluations",
        "Of peers: the solvers and grids of diffusers, k-diffusion, ComfyUI and the official code of DPM-Solver, UniPC"
        " and DEIS. Of all: the whole catalogue on all of its grids too.",
        *(text for name in problems if (text := _targets(store, name))),
    ]
    for name in problems:
        parts += [f"## {name}: {TITLES[name]}", *(_errors(store, name, size) for size in ("median", "rmse"))]
    parts += ["## Frechet distances", *(text for name in problems if (text := _frechet(store, name)))]
    (out / "quality.md").write_text("\n\n".join(parts) + "\n")
    _plot(store, problems, out / "quality.png")


def best_unfitted(store: Store, problem: str, nfe: int, size: str, offered: bool = False) -> dict | None:
    """The row of the least error among all that is not fitted, or among what some peer offers."""
    found = [row for kind in UNFITTED for row in store.select(problem=problem, kind=kind, nfe=nfe)]
    if offered:
        found = [r for r in found if r["kind"] == "peers" or r["grid"][0] in OFFERED.get(r["solver"], "")]
    return min(found, key=lambda row: row[size], default=None)


def fitted_errors(store: Store, problem: str, nfe: int, size: str) -> np.ndarray:
    """One error a seed of fitting."""
    return np.array([row[size] for row in store.select(problem=problem, kind="fitted", nfe=nfe)])


def _targets(store: Store, problem: str) -> str | None:
    counts = sorted({row["nfe"] for row in store.select(problem=problem, kind="fitted")})
    head = "| NFE | against NFE | fits | size | fitted | best of peers | ratio | best of all | ratio |"
    lines = [f"**{problem}**\n", head, "|---" * 9 + "|"]
    pairs = [(n, n) for n in counts] + [pair for pair in CROSSED if pair[0] in counts]
    pairs = [pair for pair in pairs if best_unfitted(store, problem, pair[1], "median")]
    for (few, many), size in product(pairs, ("median", "rmse")):
        errors = fitted_errors(store, problem, few, size)
        cells = [str(few), str(many), str(len(errors)), size, _spread(errors)]
        for offered in (True, False):
            best = best_unfitted(store, problem, many, size, offered)
            cells += [f"{_number(best[size])} {best['solver']}, {best['grid']}"]
            cells += [f"**{errors.mean() / best[size]:.2f}**"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if pairs else None


def _errors(store: Store, problem: str, size: str) -> str:
    rows = [row for kind in ("fitted", *UNFITTED) for row in store.select(problem=problem, kind=kind)]
    counts = sorted({row["nfe"] for row in rows})
    lines = [f"| {size}, NFE | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
    if any(row["kind"] == "fitted" for row in rows):
        fits = [fitted_errors(store, problem, nfe, size) for nfe in counts]
        lines.append("| fitted | " + " | ".join(f"**{_spread(f)}**" if len(f) else "-" for f in fits) + " |")
    for solver in dict.fromkeys(row["solver"] for row in rows if row["kind"] != "fitted"):
        cells = []
        for nfe in counts:
            found = [row for row in rows if row["solver"] == solver and row["nfe"] == nfe]
            row = min(found, key=lambda row: row[size], default=None)
            cells.append("-" if row is None else f"{_number(row[size])} {row['grid'][:2]}")
        lines.append(f"| {solver} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _frechet(store: Store, problem: str) -> str | None:
    rows = store.select(problem=problem, kind="frechet")
    if not rows:
        return None
    keys = [key for key in rows[0] if key not in ("problem", "kind", "solver", "nfe")]
    lines = [f"**{problem}**\n", "| plan | NFE | " + " | ".join(keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for row in rows:
        values = " | ".join(f"{row[key]:.3f}" for key in keys)
        lines.append(f"| {row['solver']} | {row['nfe'] or ''} | {values} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}"


def _spread(values: np.ndarray) -> str:
    """The mean over fits, and their standard deviation where there are several."""
    return _number(values.mean()) + (f" ± {_number(values.std())}" if len(values) > 1 else "")


def _plot(store: Store, problems: list[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(problems), figsize=(4.5 * len(problems), 4.2), squeeze=False)
    for axis, problem in zip(axes[0], problems, strict=True):
        rows = store.select(problem=problem)
        counts = sorted({row["nfe"] for row in rows if row["kind"] != "frechet"})
        for name in PLOTTED:
            best = {n: [r["median"] for r in rows if (r["solver"], r["nfe"]) == (name, n)] for n in counts}
            axis.loglog([n for n in counts if best[n]], [min(best[n]) for n in counts if best[n]], ".-", label=name)
        fits = {n: f for n in counts if len(f := fitted_errors(store, problem, n, "median"))}
        axis.loglog(list(fits), [f.mean() for f in fits.values()], "k.-", linewidth=2, label="fitted")
        axis.set(title=problem, xlabel="model evaluations", ylabel="median distance from the converged solution")
        axis.set_xticks(counts, labels=counts)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)

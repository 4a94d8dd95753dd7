"""What keeps a fitted plan of few evaluations from the converged samples: its weights, or what the model was asked?

    python -m bench.fit_limits                       # into bench/results/fit_limits.md
    python -m bench.fit_limits --fits build/quality  # the full fits of bench.quality too, of every network

The last row of a shipped plan makes x0 of the first state and of all outputs D_j of the model. Here its weights are
fitted anew, by iteratively reweighted least squares on one half of the samples, and judged on the other: as one number
for each D_j (the family of all fitted solvers), and with ever more freedom, up to weights of every single sample's own,
which nobody could know. What even those leave is not in the outputs: only other or more evaluations could give it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import demo

from .machine import processor
from .markdown import table
from .problems import Problem, digits, network_problems
from .quality import FITTED, Study, measured, plan_file
from .quality_summary import best_unfitted
from .store import Store

RESULTS = Path(__file__).parent / "results" / "fit_limits.md"
QUALITY = RESULTS.with_name("quality.json")
SAMPLES = 480
FIRST_SEED = 2 * 10**6  # the shipped plans were fitted to seeds from 10^6
ROUNDS = 10
RIDGE = 1e-9  # of the mean of the diagonal: weights may be undetermined
FLOOR = 0.1  # of the median error, below which a sample's error weighs as its square


def outputs(problem: Problem, plan: fd.Plan, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """[N, size] the samples of a plan; [N, size, 1 + NFE] its first states and the x0 predicted by every evaluation."""
    noise, conditions = problem.noise(seeds), problem.conditions(seeds)
    parts, x = [noise], noise
    for step in fd.iter_sample(problem.model, plan, noise, **conditions):
        parts.append(step.x0.clone())
        x = step.x
    return x.flatten(1).double(), torch.stack([part.flatten(1).double() for part in parts], 2)


def fit(inputs: Tensor, exact: Tensor) -> Tensor:
    """[k] the weights w that minimise the mean over samples of |inputs w - exact|; [N, size, k] and [N, size]."""
    weight = torch.ones(len(inputs), dtype=torch.float64)
    for _ in range(ROUNDS):
        gram = torch.einsum("ndp,ndq,n->pq", inputs, inputs, weight)
        right = torch.einsum("ndp,nd,n->p", inputs, exact, weight)
        found = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram), right)
        error = (inputs @ found - exact).square().mean(1).sqrt()
        weight = 1 / (error + FLOOR * error.median())
    return found


def along(axes: Tensor, inputs: Tensor, exact: Tensor, seen: slice, judged: slice) -> Tensor:
    """The judged half's x0 with weights of their own for each of the axes [size, size]."""
    turned, aim = torch.einsum("ndk,ed->nek", inputs, axes), exact @ axes.T
    weights = [fit(turned[seen][:, i : i + 1], aim[seen][:, i : i + 1]) for i in range(len(axes))]
    return torch.einsum("nek,ek->ne", turned[judged], torch.stack(weights)) @ axes


def families(x: Tensor, inputs: Tensor, exact: Tensor, labels: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, x0 of the judged half) of every family of last rows."""
    half = len(x) // 2
    seen, judged = slice(None, half), slice(half, None)
    yield "the shipped plan", x[judged]
    yield "one weight an output", inputs[judged] @ fit(inputs[seen], exact[seen])
    components = torch.linalg.svd(exact[seen] - exact[seen].mean(0), full_matrices=False)[2]
    yield "weights for each principal component", along(components, inputs, exact, seen, judged)
    yield "weights for each pixel", along(torch.eye(x.shape[1], dtype=x.dtype), inputs, exact, seen, judged)
    of_label = torch.zeros_like(x[judged])
    for label in labels.unique():
        here = labels == label
        of_label[here[judged]] = inputs[judged][here[judged]] @ fit(inputs[seen][here[seen]], exact[seen][here[seen]])
    yield "weights for each label", of_label
    change = inputs[:, :, 2:] - inputs[:, :, 1:-1]
    feature = change.square().mean(1).log()
    feature = (feature - feature[seen].mean(0)) / feature[seen].std(0)
    adaptive = torch.cat([inputs, *(inputs * feature[:, None, j, None] for j in range(feature.shape[1]))], 2)
    yield "weights that follow the size of the changes", adaptive[judged] @ fit(adaptive[seen], exact[seen])
    own = own_best(inputs[judged], exact[judged])
    yield "every sample's own best weights (from the answer)", (inputs[judged] @ own)[..., 0]


def own_best(inputs: Tensor, exact: Tensor) -> Tensor:
    """[N, k, 1] the weights that bring each sample nearest to its answer."""
    return torch.linalg.lstsq(inputs, exact[..., None]).solution


def of_full_fits(folder: Path) -> str:
    """The median over the best of peers': of the full fits, and of last rows that are each sample's own best."""
    store, rows = Store(QUALITY), []
    seeds = list(range(128))  # those that bench.quality judges, or half of them
    for problem in (digits(), *network_problems()):
        paths = {nfe: plan_file(folder, problem, "full", nfe) for nfe in sorted(FITTED)}
        paths = {nfe: path for nfe, path in paths.items() if path.exists()}
        if not paths:
            continue
        exact = Study(problem, len(seeds), 0).converged(seeds).flatten(1).double()
        for nfe, path in paths.items():
            x, inputs = outputs(problem, fd.Plan.load(path), seeds)
            drawn = x, (inputs @ own_best(inputs, exact))[..., 0]
            peers = best_unfitted(store, problem.name, nfe, "median", offered=True)["median"]
            medians = [measured(each, exact)["median"] for each in drawn]
            ratios = [f"{median / peers:.2f}" for median in medians]
            rows.append([problem.name, nfe, *(f"{error:.4f}" for error in (peers, *medians)), *ratios])
    head = ("network", "NFE", "best of peers", "full fit", "own best last row", "ratio", "ratio of the own best")
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=Path, help="where bench.quality has left its fits")
    folder = parser.parse_args().fits
    problem, seeds = digits(), list(range(FIRST_SEED, FIRST_SEED + SAMPLES))
    exact = Study(problem, SAMPLES, 0).converged(seeds).flatten(1).double()
    lines = [
        "# What a better last row could still win",
        f"`python -m bench.fit_limits`, torch {torch.__version__}, {processor()}. Distances from the converged samples"
        f" of the shipped network, {SAMPLES} samples: the weights of the shipped plans' last row are fitted anew to one"
        " half of them, and judged on the other.",
        "| NFE | last row | median | mean | RMSE |\n|---|---|---|---|---|",
    ]
    for nfe in demo.fitted_steps():
        x, inputs = outputs(problem, demo.fitted_plan(nfe), seeds)
        for name, drawn in families(x, inputs, exact, torch.from_numpy(np.array(seeds) % 10)):
            sizes = measured(drawn, exact[len(x) // 2 :])
            numbers = " | ".join(f"{sizes[size]:.4f}" for size in ("median", "mean", "rmse"))
            lines[-1] += f"\n| {nfe} | {name} | {numbers} |"
    if folder is not None:
        lines += [
            "## The full fits of bench.quality",
            "Medians over 128 of the samples that judge there, and what each sample's own best last row, found with its"
            " answer, would have made of the same evaluations.",
            of_full_fits(folder),
        ]
    RESULTS.write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Fitted plans of tokens where everything is known: Markov chains and hidden Markov models.

    python -m bench.token_fits                       # into bench/results/token_fits.md, some minutes

Curves of sticky chains are exact sums, and so are the laws of rules on short sequences; the rest are means over drawn
texts with their standard errors.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdiff import tokens
from fastdiff.tokens.fitting.limits import LIMITED, best_limits
from fastdiff.tokens.fitting.sizes import best_sizes, excess
from fastdiff.tokens.fitting.teacher import Teacher
from fastdiff.tokens.fitting.texts import PLAIN, make_teacher

from .machine import processor
from .markdown import number, table
from .token_exact import Chain, divergence, law_of, sticky_curve

import chains  # isort: skip
import token_laws  # isort: skip

RESULTS = Path(__file__).parent / "results" / "token_fits.md"
LENGTH = 64
SCHEDULES: dict[str, Callable[[float], float]] = {
    "uniform": lambda r: r,
    "cosine": lambda r: 1 - math.cos(math.pi * r / 2),
    "square": lambda r: r**2,
    "cubic": lambda r: r**3,
    "geometric": lambda r: ((1 + LENGTH) ** r - 1) / LENGTH,
}
STICKY = ((32, 0.1), (32, 0.3), (1000, 0.2))
SHORT = 6  # tokens whose whole law is computed
RULES = {"confidence": tokens.Confidence(), "margin": tokens.Margin(), "entropy": tokens.Entropy()}
LEVELS = np.linspace(-6, 14, 21)


def sizes_of(share: Callable[[float], float], length: int, steps: int) -> tuple[int, ...]:
    """Of a published schedule; a step may have none."""
    return tuple(np.diff([round(length * share(i / steps)) for i in range(steps + 1)]).tolist())


def hidden(states: int, vocabulary: int, epsilon: float) -> Chain:
    """A hidden Markov model that stays in its state with probability 1 - epsilon."""
    base = chains.hidden_markov(states, vocabulary, torch.Generator().manual_seed(3))
    return Chain(*chains.sticky(states, epsilon)[:2], base.emission)


def expected() -> Iterator[list[object]]:
    """The divergence of each schedule, by the exact curve, least in bold."""
    for vocabulary, epsilon in STICKY:
        curve = sticky_curve(vocabulary, epsilon, LENGTH)
        for steps in (4, 8, 16, 32):
            best = best_sizes(curve, steps)
            known = [excess(curve, sizes_of(share, LENGTH, steps)) for share in SCHEDULES.values()]
            assert excess(curve, best) <= min(known)
            shown = " ".join(map(str, best)) if steps <= 8 else ""
            numbers = [number(value) for value in (*known, excess(curve, best))]
            yield [f"V {vocabulary}, epsilon {epsilon}", steps, *numbers, shown]


def enumerated() -> Iterator[list[object]]:
    """The closed form beside the mean over all orders of the exact divergence, V = 3, L = 5."""
    for name, chain in short_chains():
        texts = chains.sequences(3, 5)
        log_p, orders = chain.log_prob(texts), list(itertools.permutations(range(5)))
        at = {known: -log_known(chain, texts, known) for n in range(6) for known in itertools.combinations(range(5), n)}
        p = log_p.exp()
        curve = np.array(
            [
                np.mean([float(p @ at[k][:, i]) for k in at if len(k) == n for i in range(5) if i not in k])
                for n in range(5)
            ]
        )
        for sizes in ((1, 2, 2), (2, 3), (5,)):
            ends = np.cumsum((0, *sizes)).tolist()
            total = 0.0
            for order in orders:
                for a, b in itertools.pairwise(ends):
                    total += float(p @ at[tuple(sorted(order[:a]))][:, list(order[a:b])].sum(1)) / len(orders)
            mean, mixed = total + float(p @ log_p), divergence(chain, 5, token_laws.random_order(chain, 5, sizes))
            assert abs(mean - excess(curve, sizes)) < 1e-10
            yield [name, " ".join(map(str, sizes)), f"{excess(curve, sizes):.6f}", f"{mean:.6f}", f"{mixed:.6f}"]


def log_known(chain: Chain, texts: Tensor, known: Sequence[int]) -> Tensor:
    """ln p of each token given those known, [N, L]."""
    seen = torch.full_like(texts, chain.mask)
    seen[:, list(known)] = texts[:, list(known)]
    return chain(seen).gather(-1, texts[..., None])[..., 0]


def taught() -> Iterator[list[object]]:
    """The measured divergence beside the closed form, by runs on 600 texts of 64 tokens."""
    chain, curve = chains.sticky(32, 0.1), sticky_curve(32, 0.1, LENGTH)
    texts = chain.draw(600, LENGTH, torch.Generator().manual_seed(0))
    teacher, log_p = teacher_of(chain, texts), chain.log_prob(texts)
    for steps in (4, 8, 16):
        for name, sizes in (("uniform", (LENGTH // steps,) * steps), ("fitted", best_sizes(curve, steps))):
            found = teacher.lesson(tokens.plan("random", sizes=sizes)).nll + log_p
            error = float(found.std()) / len(found) ** 0.5
            assert abs(float(found.mean()) - excess(curve, sizes)) < 6 * error
            yield [steps, name, number(excess(curve, sizes)), f"{found.mean():.2f} ± {error:.2f}"]


def from_few_texts() -> Iterator[list[object]]:
    """`tokens.fit` on drawn texts, judged by the exact curve: what measuring the curve costs."""
    chain, curve = chains.sticky(32, 0.1), sticky_curve(32, 0.1, LENGTH)
    for steps in (8, 16):
        for count in (32, 128):
            found, took, calls = [], [], []
            for seed in range(3):
                texts = chain.draw(count, LENGTH, torch.Generator().manual_seed(seed))
                model, began = Counted(chain), time.perf_counter()
                plan = tokens.fit(model, texts, steps, chain.mask, batch=32, seed=seed)
                took.append(time.perf_counter() - began)
                calls.append(model.calls)
                found.append(excess(curve, sizes_of_plan(plan, LENGTH)))
            others = [number(excess(curve, sizes)) for sizes in (
                sizes_of(SCHEDULES["uniform"], LENGTH, steps), sizes_of(SCHEDULES["cosine"], LENGTH, steps),
                best_sizes(curve, steps),
            )]  # fmt: skip
            spread = f"{np.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            yield [steps, count, *others, spread, round(np.mean(calls)), f"{np.median(took):.1f}"]


class Counted:
    """A model that counts its calls."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.calls = chain, 0

    def __call__(self, given: Tensor) -> Tensor:
        self.calls += 1
        return self.chain(given)


def sizes_of_plan(plan: tokens.Plan, length: int) -> tuple[int, ...]:
    reached = plan.reached or (0,)
    ends = [(2 * length * sum_ + reached[-1]) // (2 * reached[-1]) for sum_ in reached]
    return tuple(np.diff(ends).tolist())


def short_chains() -> list[tuple[str, Chain]]:
    random = torch.Generator().manual_seed(1)
    return [
        ("sticky, epsilon 0.2", chains.sticky(3, 0.2)),
        ("random chain", chains.markov(3, random)),
        ("hidden, 2 states", hidden(2, 3, 0.1)),
    ]


def exact_rules() -> Iterator[list[object]]:
    """KL(p || q) of each rule's best plan with so many calls in the mean, V = 3, L = 6."""
    for name, chain in short_chains():
        limits = limited(chain)
        for steps in (2, 3, 4):
            ways = [np.diff((0, *ends, SHORT)).tolist() for ends in itertools.combinations(range(1, SHORT), steps - 1)]
            random = min(divergence(chain, SHORT, token_laws.random_order(chain, SHORT, way)) for way in ways)
            ranked = [
                min(divergence(chain, SHORT, law_of(chain, SHORT, tokens.Plan(rule, tuple(way)))[0]) for way in ways)
                for rule in RULES.values()
            ]
            yield [name, steps, *map(number, (random, *ranked, *(least(pairs, steps) for pairs in limits.values())))]


def limited(chain: Chain) -> dict[str, list[tuple[float, float]]]:
    """(calls, divergence) of rules with a limit, the same at all steps, from lax to strict."""
    found = {}
    for kind, rule in LIMITED.items():
        laws = [law_of(chain, SHORT, tokens.Plan(rule((float(level),)))) for level in LEVELS]
        found[kind] = [(calls, divergence(chain, SHORT, law)) for law, calls in laws]
    return found


def least(pairs: list[tuple[float, float]], steps: int) -> float:
    """The least divergence with so many calls."""
    return min(size for calls, size in pairs if calls <= steps + 1e-9)


def long_rules() -> Iterator[list[object]]:
    """-ln q less -ln p on 200 texts, for rules whose law is known; limits fitted to other texts."""
    problems = (
        ("sticky, V 32, epsilon 0.1, L 64", chains.sticky(32, 0.1), LENGTH),
        ("hidden, 4 states, V 16, L 64", hidden(4, 16, 0.1), LENGTH),
        ("random chain, V 8, L 64", chains.markov(8, torch.Generator().manual_seed(5)), LENGTH),
    )
    for name, chain, length in problems:
        random = torch.Generator().manual_seed(11)
        seen, unseen = chain.draw(100, length, random), chain.draw(200, length, random)
        curve = tokens.information_curve(chain, seen, chain.mask, calls=256, batch=100)
        fitter, judge, log_p = teacher_of(chain, seen), teacher_of(chain, unseen), chain.log_prob(unseen)
        for steps in (8, 16):
            best = curve.best(steps)
            plans = [tokens.plan("random", steps), tokens.plan("random", steps, sizes="cosine")]
            plans.append(tokens.plan("random", sizes=best))
            for kind in ("margin", "entropy"):
                ways = [
                    tokens.plan(kind, steps),
                    tokens.plan(kind, steps, sizes="cosine"),
                    tokens.plan(kind, sizes=best),
                ]
                plans.append(min(ways, key=lambda plan: float(fitter.lesson(plan).nll.mean())))
            bound = best_limits(fitter, "entropy_bound", steps, None)
            assert bound is not None
            found = [judge.lesson(plan).nll + log_p for plan in (*plans, bound)]
            shown = [f"{each.mean():.2f} ± {each.std() / len(each) ** 0.5:.2f}" for each in found]
            yield [name, steps, *shown, f"{judge.lesson(bound).steps:.1f}"]


def teacher_of(chain: Chain, texts: Tensor) -> Teacher:
    return make_teacher(chain, texts, chain.mask, 1, len(texts), None, None, PLAIN, 0, {})


def seconds() -> Iterator[list[object]]:
    """Of dynamic programming."""
    for length, steps in ((64, 16), (1024, 64), (4096, 64), (4096, 512)):
        curve = np.sort(np.random.default_rng(0).exponential(size=length))[::-1].copy()
        took = []
        for _ in range(3):
            began = time.perf_counter()
            best_sizes(curve, steps)
            took.append(time.perf_counter() - began)
        yield [length, steps, f"{min(took):.4f}", f"{np.median(took):.4f}"]


PARTS: tuple[tuple[str, list[str], Callable[[], Iterator[list[object]]]], ...] = (
    (
        "Random order: expected divergence by the exact curve, L = 64",
        ["sticky chain", "steps", *SCHEDULES, "best", "sizes"],
        expected,
    ),
    (
        "The closed form, the mean over all 120 orders of 5 tokens, and the sampler, which mixes orders; V = 3",
        ["chain", "sizes", "closed form", "mean over orders", "the sampler's own"],
        enumerated,
    ),
    (
        "The closed form and runs on 600 texts, V 32, epsilon 0.1, L = 64",
        ["steps", "sizes", "closed form", "measured"],
        taught,
    ),
    (
        "`tokens.fit` on few texts, V 32, epsilon 0.1, L = 64, judged by the exact curve; three fits",
        ["steps", "texts", "uniform", "cosine", "best", "fitted: median (range)", "calls of 32 texts", "seconds"],
        from_few_texts,
    ),
    (
        "Rules at equal calls: 200 texts, rules whose law is known; margin and entropy with the best of three sizes",
        ["chain", "calls", "random, uniform", "random, cosine", "random, fitted", "margin", "entropy", "entropy_bound",
         "its calls"],
        long_rules,
    ),
    (
        "Rules at equal calls: the exact law, V = 3, L = 6, each with its best sizes or limit",
        ["chain", "calls", "random", *RULES, *LIMITED],
        exact_rules,
    ),
    ("Dynamic programming, seconds", ["L", "steps", "best of 3", "median"], seconds),
)  # fmt: skip


def main() -> None:
    text = (
        "# Fitted plans of tokens, where everything is known\n\n"
        f"`python -m bench.token_fits`, torch {torch.__version__}, {processor()}, on a machine with other load. "
        "Divergences KL(p || q) in nats, q the sampler at temperature 1.\n"
    )
    for title, head, rows in PARTS:
        text += f"\n## {title}\n\n{table(head, rows())}\n"
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()

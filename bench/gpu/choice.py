"""What the automatic choice of backends should become by the times measured: lines to paste into its table."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from itertools import groupby

MARGIN = 1.02  # a kernel that wins by less is no reason to leave PyTorch's own op
OURS = ("triton", "cuda")
THEIRS = ("fastdiff torch", "sdpa")

Times = dict[str, dict[str, float]]  # case -> contestant -> seconds


def order(cases: dict[str, dict], ours: tuple[str, ...] = OURS) -> tuple[tuple[str, ...], str]:
    """The backends, fastest first by the geometric mean over cases that all of them served, and what that rests on."""
    times = _times(cases)
    shared = [t for t in times.values() if all(f"fastdiff {name}" in t for name in ours)]
    if not shared:
        return (), "not measured"
    ratios = {
        name: statistics.geometric_mean(t[f"fastdiff {name}"] / min(t[f"fastdiff {n}"] for n in ours) for t in shared)
        for name in ours
    }
    best = tuple(sorted(ours, key=ratios.__getitem__))
    wins = sum(min(ours, key=lambda name: t[f"fastdiff {name}"]) == best[0] for t in shared)
    eager = sum(t.get("eager", math.inf) < t[f"fastdiff {best[0]}"] for t in shared)
    others = ", ".join(f"{name} takes {ratios[name] / ratios[best[0]]:.2f} times as long" for name in best[1:])
    why = [f"{best[0]} is first in {wins} of {len(shared)} cases", others, f"eager PyTorch is faster in {eager}"]
    return best, "; ".join(part for part in why if part)


def attention_lines(cases: dict[str, dict], capability: tuple[int, int]) -> list[str]:
    """A Measured(...) line for each range of keys and the head sizes that share it.

    A number of keys is won by a backend that beats PyTorch's own ops at all the shapes and dtypes measured with it and
    the head size. A range goes from a number that was won to the last before one that was not, and not beyond.
    """
    won = defaultdict(list)  # (range, backends) -> head sizes
    for size, by_keys in sorted(_by_head_size(cases).items()):
        for backends, run in groupby(sorted(by_keys), key=lambda keys: _winners(by_keys[keys])):
            keys = list(run)
            if backends:
                won[keys[0], keys[-1] + 1, backends].append(size)
    return [
        f"    Measured({capability}, {tuple(sizes)}, range({first}, {end}), {_quoted(backends)}),"
        for (first, end, backends), sizes in won.items()
    ]


def pasted(sections: dict[str, dict[str, dict]], capability: tuple[int, int]) -> str:
    """What fastdiff/ops/auto_choice.py should say for this CUDA device."""
    lines = []
    for op in ("solver_step", "gram", "group_norm"):
        backends, why = order(sections.get(op.replace("_", " "), {}))
        lines.append(f"# {op} on CUDA: {why}")
        if backends:
            lines.append(f"def _{op}(case: CallSpec) -> tuple[str, ...]:")
            lines.append(f'    return {{"cpu": ("cpu",), "cuda": {_quoted(backends)}}}.get(case.device, ())')
    ranges = attention_lines(sections.get("attention", {}), capability)
    lines.append("_ATTENTION_ON_CUDA: tuple[Measured, ...] = (" + ("" if ranges else ")"))
    return "\n".join([*lines, *ranges, *([")"] if ranges else [])])


def _by_head_size(cases: dict[str, dict]) -> dict[int, dict[int, list[dict[str, float]]]]:
    """head size -> keys -> the times of each shape and dtype."""
    shapes = {record["case"]: record["shape"] for record in cases.values()}
    found: dict[int, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    for case, times in _times(cases).items():
        *_, keys, size = shapes[case]
        if any(name in times for name in THEIRS):
            found[size][keys].append(times)
    return found


def _winners(shapes: list[dict[str, float]]) -> tuple[str, ...]:
    """The backends faster than PyTorch's at all of them, best first."""

    def slowest(name: str) -> float:
        """Of its times beside PyTorch's best."""
        return max(t.get(f"fastdiff {name}", math.inf) / min(t[o] for o in THEIRS if o in t) for t in shapes)

    share = {name: slowest(name) for name in OURS}
    return tuple(sorted((name for name in OURS if share[name] * MARGIN < 1), key=share.__getitem__))


def _times(cases: dict[str, dict]) -> Times:
    found: Times = defaultdict(dict)
    for record in cases.values():
        if record.get("median") is not None:
            found[record["case"]][record["name"]] = record["median"]
    return found


def _quoted(names: tuple[str, ...]) -> str:
    return str(names).replace("'", '"')

"""`python -m bench.report [names of REPORTS]`, all without a name: tables to bench/results/."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from .machine import processor

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


def measure(*stems: str) -> list[dict]:
    """The rows of `pytest bench/bench_<stem>.py` at full length, from pytest-benchmark's own JSON."""
    files = [str(FOLDER / f"bench_{stem}.py") for stem in stems]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "benchmarks.json"
        command = [sys.executable, "-m", "pytest", "-q", *files, f"--benchmark-json={target}"]
        subprocess.run(command, check=True, env=os.environ | {"FASTDIFF_BENCH": "full"})
        return json.loads(target.read_text())["benchmarks"]


def table(rows: list[dict]) -> str:
    """One markdown table: microseconds, and how many times fastdiff's time each contestant takes."""
    lines = ["| group | contestant | best us | median us | times ours | median | of copy |", "|---" * 7 + "|"]
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        ours = next((r["stats"] for r in members if r["name"].startswith("test_fastdiff")), None)
        for row in sorted(members, key=lambda r: r["stats"]["median"]):
            best, median = row["stats"]["min"], row["stats"]["median"]
            ratios = f"{best / ours['min']:.1f} | {median / ours['median']:.1f}" if ours else " | "
            share = row["extra_info"].get("of_copy_bandwidth")
            name = row["name"].partition("[")[0].removeprefix("test_")
            text = f"{share:.0%}" if share else ""
            lines.append(f"| {group} | {name} | {best * 1e6:.1f} | {median * 1e6:.1f} | {ratios} | {text} |")
    return "\n".join(lines)


def by_contestant(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """group -> contestant -> row."""
    groups: dict[str, dict[str, dict]] = {row["group"]: {} for row in rows}
    for row in rows:
        groups[row["group"]][row["params"]["contestant"]] = row
    return groups


def attention_table(rows: list[dict]) -> str:
    """One row a shape: fastdiff's best time and its share of the matmul rate, and how many times that others take."""
    groups = by_contestant(rows)
    others = list(dict.fromkeys(name for members in groups.values() for name in members if name != "fastdiff"))
    lines = ["| shape, dtype, threads | fastdiff ms | of matmul | " + " | ".join(others) + " |"]
    lines.append("|---" * (len(others) + 3) + "|")
    ratios: dict[str, list[float]] = {}
    for group, members in groups.items():
        ours = members["fastdiff"]["stats"]["min"]
        times = {name: members[name]["stats"]["min"] / ours for name in others if name in members}
        cells = [f"{times[name]:.2f}" if name in times else "" for name in others]
        share = members["fastdiff"]["extra_info"]["of_matmul_rate"]
        lines.append(f"| {group} | {ours * 1e3:.3f} | {share:.0%} | " + " | ".join(cells) + " |")
        kind, (_, dtype, threads) = group.partition(",")[0], group.rsplit(",", 2)
        ratios.setdefault(f"{kind},{dtype},{threads}", []).append(times["sdpa"])
    lines += ["", "The median over shapes of what PyTorch's op takes by default:", ""]
    lines += [f"- {kind}: {statistics.median(values):.2f}" for kind, values in ratios.items()]
    return "\n".join(lines)


def group_norm_table(rows: list[dict]) -> str:
    """One row a group: fastdiff's best time and share of the copy bandwidth, and how many times that others take."""
    groups = by_contestant(rows)
    lines = ["| shape, layout, what, dtype, threads | fastdiff us | of copy | eager | median | compiled |"]
    lines.append("|---" * 6 + "|")
    ratios: dict[str, list[float]] = {}
    for group, members in groups.items():
        ours = members["fastdiff"]
        best, median = ours["stats"]["min"], ours["stats"]["median"]
        times = {name: members[name]["stats"]["min"] / best for name in ("eager", "compiled") if name in members}
        compiled = f"{times['compiled']:.2f}" if "compiled" in times else ""
        middle = members["eager"]["stats"]["median"] / median
        share = ours["extra_info"].get("of_copy_bandwidth")
        text = f"{share:.0%}" if share else ""
        lines.append(f"| {group} | {best * 1e6:.0f} | {text} | {times['eager']:.2f} | {middle:.2f} | {compiled} |")
        kind, (_, layout, variant, dtype, threads) = group.partition(" ")[0], group.rsplit(", ", 4)
        ratios.setdefault(f"{kind}, {layout}, {variant}, {dtype}, {threads}", []).append(times["eager"])
    lines += ["", "The median and the least over shapes of what eager takes:", ""]
    lines += [f"- {kind}: {statistics.median(values):.2f}, {min(values):.2f}" for kind, values in ratios.items()]
    return "\n".join(lines)


def gram_table(rows: list[dict]) -> str:
    """One row a group: fastdiff's best time and share of the copy bandwidth, and how many times that others take."""
    lines = ["| what, shape, dtype, threads | fastdiff us | of copy | through the op | eager | median |"]
    lines.append("|---" * 6 + "|")
    for group, members in by_contestant(rows).items():
        ours = members["fastdiff"]["stats"]
        op, eager = (f"{members[name]['stats']['min'] / ours['min']:.2f}" for name in ("op", "eager"))
        median = f"{members['eager']['stats']['median'] / ours['median']:.2f}"
        share = members["fastdiff"]["extra_info"].get("of_copy_bandwidth")
        text = f"{share:.0%}" if share else ""
        lines.append(f"| {group} | {ours['min'] * 1e6:.1f} | {text} | {op} | {eager} | {median} |")
    return "\n".join(lines)


def token_stats_table(rows: list[dict]) -> str:
    """One row a group: fastdiff's best time and share of the read bandwidth, and how many times that others take."""
    names = ("block_refinement", "entropy_bound", "discrete_ddim", "llada")
    lines = [f"| what, shape, dtype | fastdiff ms | of read | {' | '.join(names)} |", "|---" * 7 + "|"]
    for group, members in by_contestant(rows).items():
        ours = members["fastdiff"]
        best, median = (ours["stats"][key] for key in ("min", "median"))
        cells = [f"{best * 1e3:.2f}", f"{ours['extra_info'].get('of_read_bandwidth', 0):.0%}"]
        for name in names:
            theirs = members[name]["stats"] if name in members else None
            cells.append(f"{theirs['min'] / best:.1f}, {theirs['median'] / median:.1f}" if theirs else "")
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def token_schedulers_table(rows: list[dict]) -> str:
    """One row a group: a step's best time, and how many times that diffusers' takes; then what both do in it."""
    head = "step | fastdiff ms | diffusers, best | median | traffic | operations | waits | theirs | operations | waits"
    lines = [f"| {head} |", "|---" * 10 + "|"]
    for group, members in by_contestant(rows).items():
        ours, theirs = members["fastdiff"], members["diffusers"]
        ratios = (f"{theirs['stats'][key] / ours['stats'][key]:.1f}" for key in ("min", "median"))
        cells = [f"{ours['stats']['min'] * 1e3:.2f}", *ratios]
        for row in (ours, theirs):
            cells += [str(row["extra_info"][key]) for key in ("traffic", "operations", "waits")]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def guidance_table(rows: list[dict]) -> str:
    """One row a method and shape: fastdiff's step against its own CFG step, and what the other contestants take."""
    groups = by_contestant(rows)
    head = "method, shape | fastdiff us | times its CFG | passes | diffusers | operations | passes | eager | operations"
    lines = [f"| {head} | passes |", "|---" * 10 + "|"]
    for group, members in groups.items():
        method, shape = members["fastdiff"]["params"]["method"], group.partition("(")[2]
        ours, plain = members["fastdiff"]["stats"]["min"], groups[f"CFG ({shape}"]["fastdiff"]["stats"]["min"]
        cells = [f"{ours * 1e6:.1f}", f"{ours / plain:.2f}", str(members["fastdiff"]["extra_info"]["passes"])]
        for name in ("diffusers", "eager"):
            other = members.get(name)
            info = other["extra_info"] if other else {}
            cells += (
                [f"{other['stats']['min'] / ours:.1f}", str(info["operations"]), str(info["passes"])]
                if other
                else [""] * 3
            )
        lines.append(f"| {method} ({shape} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows_table(rows: list[dict]) -> str:
    """One row a plan and shape: a step with rows, and how many times its time the other way takes, or it takes."""
    groups: dict[str, dict[str, dict]] = {row["group"]: {} for row in rows}
    for row in rows:
        groups[row["group"]][row["extra_info"]["other"]] = row
    head = "plan, latents, threads | one row for all us | rows us | times | median | rows of their own us"
    lines = [f"| {head} | one call a sample us | times | median |", "|---" * 9 + "|"]
    for group, members in groups.items():
        cells = []
        for name, row in members.items():
            ours, theirs = row["stats"], row["extra_info"]["theirs"]
            pair = (theirs, ours) if name == "one row for all" else (ours, theirs)
            cells += [f"{side['min'] * 1e6:.1f}" for side in pair]
            cells += [f"{pair[1][key] / pair[0][key]:.2f}" for key in ("min", "median")]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(row: dict, ours: float) -> list[str]:
    """Times ours, operations and passes of another contestant."""
    info = row["extra_info"]
    return [f"{row['stats']['min'] / ours:.1f}", str(info["operations"]), str(info["passes"])]


def dropin_table(rows: list[dict]) -> str:
    """Microseconds a scheduler's step and operations in it; then seconds, and times faster, with `accelerate`."""
    steps = [row for row in rows if "steps" in row["extra_info"]]
    head = "class, latent | fastdiff us | kernel | noise | operations | diffusers us | operations | times | median"
    lines = [f"| {head} |", "|---" * 9 + "|"]
    for row in steps:
        ours, info = row["stats"], row["extra_info"]
        theirs, us = info["theirs"], 1e6 / info["steps"]
        seconds = (ours["min"], info["kernel"], info["noise"], theirs["min"])
        step, kernel, noise, other = (f"{t * us:.1f}" if t else "" for t in seconds)
        ratios = " | ".join(f"{theirs[key] / ours[key]:.1f}" for key in ("min", "median"))
        cells = f"{step} | {kernel} | {noise} | {info['fastdiff']} | {other} | {info['diffusers']} | {ratios}"
        lines.append(f"| {row['group']} | {cells} |")
    lines += ["", "| what | plain s | accelerated s | times faster, best | median |", "|---" * 5 + "|"]
    for row in [row for row in rows if row not in steps]:
        ours, theirs = row["stats"], row["extra_info"]["theirs"]
        ratios = " | ".join(f"{theirs[key] / ours[key]:.2f}" for key in ("min", "median"))
        lines.append(f"| {row['group']} | {theirs['min']:.3f} | {ours['min']:.3f} | {ratios} |")
    return "\n".join(lines)


def write_group_norm() -> None:
    text = (
        " The contestants' columns say how many times fastdiff's time theirs takes, best and then median for eager. On"
        " the CPU outputs of 32 MiB and more are fresh pages in every call of every contestant, and smaller ones are"
        " memory kept from the call before. The share of the machine's copy bandwidth counts one read and one write;"
        " torch's copy always writes to memory that is already there."
    )
    _write_for_device("group_norm", "Group norm", text, group_norm_table(measure("group_norm")))


def write_gram() -> None:
    text = (
        " The other columns say how many times the backend's time a call of `fastdiff.ops.gram` and eager PyTorch take,"
        " best and then median for eager. The share of the machine's copy bandwidth counts one read of each tensor."
    )
    _write_for_device("gram", "Inner products", text, gram_table(measure("gram")))


def write_token_stats() -> None:
    text = (
        " The other columns say how many times fastdiff's time theirs takes, best and then median: a step of diffusers'"
        " schedulers, whose part beside the logits is small, and LLaDA's reference sampler. The temperature is 0.7"
        " where tokens are drawn, top_k is 50 and top_p 0.9. The share of the machine's read bandwidth, that of torch's"
        " sum of a float32 buffer as large, counts one read of the logits. One thread, on a machine that had other"
        " work."
    )
    _write_for_device("token_stats", "Draws from logits", text, token_stats_table(measure("token_stats")))


def write_token_schedulers() -> None:
    text = (
        " The columns after fastdiff's best time say how many times that a step of diffusers' class takes,"
        " best and median. Traffic is what the operations read and write of tensors with a vocabulary's size, over the"
        " bytes of the logits; waits are values that the host reads, torch.multinomial's check of its weights too."
        " EntropyBoundScheduler's outputs have the logits over the temperature, which is two of its traffic; the"
        " classes of images get the vocabulary on an axis that is not the last, and moving it is two of theirs."
    )
    _write(
        "token_schedulers_cpu", "Steps of token schedulers", text, token_schedulers_table(measure("token_schedulers"))
    )


def write_guidance() -> None:
    text = (
        " A step combines the outputs c and u and makes the update of DPM-Solver++ 2M, best times. The columns"
        " diffusers (guider and scheduler) and eager (the formula op by op, and a 2M step in three ops) say how many"
        " times fastdiff's step theirs takes. Passes are latent-sized tensors that the combination reads or writes;"
        " fastdiff's are what it adds to a step without guidance."
    )
    _write_for_device("guidance", "Guided steps", text, guidance_table(measure("guidance")))


def write_cpu() -> None:
    _write("cpu", "Benchmarks", "", table(measure("sampling", "solver_step")))


def write_rows() -> None:
    text = (
        " A step of float32 latents without a model, best times of 400 and ratios of the best and of the medians, each"
        " pair timed in turns: `solver_step_rows` with all samples at one row against `solver_step`, and one call for"
        " each sample against `solver_step_rows` with every sample at a row of its own."
    )
    body = rows_table(measure("solver_step_rows"))
    load = f" The {os.cpu_count()} cores had a load average of {os.getloadavg()[0]:.0f}, the benchmark included."
    _write("rows_cpu", "A row for each sample", text + load, body)


def write_attention() -> None:
    text = (
        " The contestants' columns say how many times fastdiff's best time their best takes; empty where PyTorch has no"
        " such kernel for the shape, or would write out queries times keys. The share of the machine's measured matmul"
        " rate (on the CPU torch's float32 product, with as many threads) counts the two products and not the softmax."
    )
    _write_for_device("attention", "Attention", text, attention_table(measure("attention")))


def write_dropin() -> None:
    text = (
        " A step is `scale_model_input` and `step` without a model and without gradients, the mean over the best run of"
        " 20 steps; its operations are those that pass torch's dispatcher. The kernel's time, which goes with the size"
        " of the latent, and that of the random numbers are parts of fastdiff's. The networks are Stable Diffusion"
        " 1.5's at a quarter of their width with random weights, in float32; an image of 8 steps of DPM-Solver++ with"
        " guidance is all that the pipeline does with a prompt's embedding, the decoder included. Both sides were timed"
        " in turns."
    )
    _write("dropin_cpu", "Drop-ins in diffusers", text, dropin_table(measure("dropin")))


REPORTS = {
    "cpu": write_cpu,
    "rows": write_rows,
    "gram": write_gram,
    "guidance": write_guidance,
    "dropin": write_dropin,
    "group_norm": write_group_norm,
    "attention": write_attention,
    "token_stats": write_token_stats,
    "token_schedulers": write_token_schedulers,
}


def _write_for_device(name: str, title: str, text: str, body: str) -> None:
    if torch.cuda.is_available():
        _write(f"{name}_cuda", title, f" {torch.cuda.get_device_name()}.{text}", body)
    else:
        _write(f"{name}_cpu", title, text, body)


def _write(name: str, title: str, text: str, body: str) -> None:
    head = f"# {title}\n\n`python -m bench.report`, torch {torch.__version__}, {processor()}.{text}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"{head}\n\n{body}\n")


def main() -> None:
    for name in sys.argv[1:] or REPORTS:
        REPORTS[name]()


if __name__ == "__main__":
    main()

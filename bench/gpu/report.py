"""The results as a page of markdown tables."""

from __future__ import annotations

from collections import Counter

from . import choice
from .results import Results

TESTS = "tests: "

Record = dict


def markdown(results: Results) -> str:
    found, sections = results.identity["machine"], results.sections
    versions = ", ".join(f"{name} {value}" for name, value in found.items() if name != "device")
    blocks = [f"# {found['device']}", f"{versions}, source {results.identity['source']}.", _stages(results)]
    blocks += [_tests(sections), _failures(results)]
    blocks += ["## The choice of backends", "```python\n" + table_to_paste(results) + "\n```"]
    ceilings = {record["case"]: record for record in sections.get("ceilings", {}).values()}
    for name, cases in sections.items():
        if name == "kernels":
            blocks += [f"## {name}", _kernels(cases, ceilings)]
        elif name == "first calls":
            blocks += [f"## {name}", _first_calls(cases)]
        elif not name.startswith(TESTS) and name != "build":
            blocks += [f"## {name}", _timings(cases, ceilings)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def table_to_paste(results: Results) -> str:
    capability = tuple(results.identity["machine"].get("capability", (0, 0)))
    return choice.pasted(results.sections, capability)


def summary(results: Results) -> str:
    """Stages, tests and kinds of failure in a few lines."""
    kinds = Counter(record["kind"] for record in results.records() if "kind" in record)
    lines = [f"{name}: {_line(stage['state'])}, {stage['seconds']} s" for name, stage in results.stages.items()]
    for name, cases in results.sections.items():
        if name.startswith(TESTS):
            lines.append(f"{name}: {_counts(cases)}")
    return "\n".join([*lines, *(f"{count} x {kind}" for kind, count in kinds.most_common())])


def _stages(results: Results) -> str:
    rows = [[name, _line(stage["state"]), stage["seconds"]] for name, stage in results.stages.items()]
    return _table(["stage", "state", "seconds"], rows)


def _line(state: str) -> str:
    """The first and, where a traceback follows, the last line of a state."""
    first, *others = state.strip().splitlines()
    return f"{first} ... {others[-1]}" if others else first


def _tests(sections: dict[str, dict[str, Record]]) -> str:
    rows = [
        [name.removeprefix(TESTS), _counts(cases), f"{sum(r.get('seconds', 0) for r in cases.values()):.1f}"]
        for name, cases in sections.items()
        if name.startswith(TESTS)
    ]
    return "## Tests on the device\n\n" + _table(["file, backend", "outcomes", "seconds"], rows) if rows else ""


def _counts(cases: dict[str, Record]) -> str:
    outcomes = Counter(record["outcome"] for record in cases.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def _failures(results: Results) -> str:
    """Stages that failed, and the first failure of each kind with the number of the kind, in full."""
    kinds = Counter(record["kind"] for record in results.records() if "kind" in record)
    texts = [(f"stage {name}", stage["state"]) for name, stage in results.stages.items() if "failed" in stage["state"]]
    texts += [(f"{kinds[r['kind']]} x {r['kind']}", r["text"]) for r in results.records() if "text" in r]
    blocks = [f"### {title}\n\n```\n{text.strip()}\n```" for title, text in texts]
    return "\n\n".join(["## Failures, the first of each kind in full", *blocks]) if blocks else ""


def _timings(cases: dict[str, Record], ceilings: dict[str, Record]) -> str:
    ours = {}  # case -> fastdiff's best median
    for record in cases.values():
        if record["name"].startswith("fastdiff") and "median" in record:
            ours[record["case"]] = min(record["median"], ours.get(record["case"], record["median"]))
    rows = []
    for record in cases.values():
        times = record["median"] / ours[record["case"]] if "median" in record and record["case"] in ours else None
        shares = [_share(record, ceilings, "bytes", "copy"), _share(record, ceilings, "flops", "matmul")]
        micro = [_micro(record.get(name)) for name in ("best", "median", "host")]
        note = record.get("note", "")
        if "images" in record and "median" in record:
            note = f"{record['images'] / record['median']:.2f} images/s"
        rows.append([record["case"], record["name"], *micro, "" if times is None else f"{times:.2f}", *shares, note])
    head = ["case", "contestant", "best us", "median us", "host us", "times ours", "of copy", "of matmul", ""]
    return _table(head, rows)


def _kernels(cases: dict[str, Record], ceilings: dict[str, Record]) -> str:
    rows = []
    for record in cases.values():
        for k, launch in enumerate(record.get("launches", [])):
            reads_only = k + 1 < len(record["launches"])  # the one before the output takes statistics
            moved = {"bytes": record.get("bytes", 0) / (2 if reads_only else 1), "best": launch["median"]}
            sizes = [launch[name] if launch[name] is not None else "" for name in ("registers", "spills", "shared")]
            numbers = [f"{launch['first']:.2f}", _micro(launch["median"]), _share(moved, ceilings, "bytes", "copy")]
            rows.append([record["case"], k + 1, *numbers, launch["programs"], *sizes])
        if "launches" not in record:
            rows.append([record["case"], record["note"], *[""] * 7])
    head = ["call", "launch", "first s", "median us", "of copy", "programs", "registers", "spills", "shared"]
    return _table(head, rows)


def _first_calls(cases: dict[str, Record]) -> str:
    """What compiling takes while other processes compile, too; the longest first, after those that failed."""
    longest = sorted(cases.values(), key=lambda record: -record.get("first", float("inf")))
    rows = [[r["case"], r["name"], f"{r['first']:.1f}" if "first" in r else r["note"]] for r in longest]
    return _table(["case", "contestant", "s"], rows)


def _share(record: Record, ceilings: dict[str, Record], what: str, ceiling: str) -> str:
    """What the case needs at the least, beside what the machine can do in its best time."""
    limit = ceilings.get(ceiling, {})
    if not record.get(what) or "best" not in record or "best" not in limit:
        return ""
    return f"{record[what] / record['best'] / (limit[what] / limit['best']):.0%}"


def _micro(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def _table(head: list[str], rows: list[list]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)])

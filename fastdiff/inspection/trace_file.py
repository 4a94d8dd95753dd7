"""A trace as a safetensors file: its tensors by name, and the plan and the names in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..plans.plan import Plan
from .record import TENSORS, Record

VERSION = "1"


def write_trace(trace: Record, path: Path) -> None:
    """Write the file."""
    header = {
        "fastdiff_trace": VERSION,
        "plan": json.dumps(trace.plan.to_dict()),
        "output_names": json.dumps(trace.output_names),
        "reference": trace.reference,
    }
    save_file({name: getattr(trace, name).cpu().contiguous() for name in TENSORS}, path, header)


def read_trace(path: Path) -> dict[str, Any]:
    """The arguments of a `Trace`. Raises ValueError naming the file where it is not one."""
    with path.open("rb"):
        pass  # the system's own error where there is no such file
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("fastdiff_trace") != VERSION:
                raise ValueError(f"expected a trace of version {VERSION}, got {header.get('fastdiff_trace')}")
            found = {name: file.get_tensor(name) for name in TENSORS}
        plan = Plan.from_dict(json.loads(header["plan"]))
        names = tuple(json.loads(header["output_names"]))
        return {"plan": plan, "output_names": names, "reference": header["reference"], **found}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a trace that fastdiff wrote: {error}") from error

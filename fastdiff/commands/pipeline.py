"""A pipeline of diffusers in a folder, as `fastdiff fit` takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import fitting
from ..pipelines import fit_pipeline
from ..plans.plan import Plan

DTYPES = ("float32", "float16", "bfloat16")
INDEX = "model_index.json"  # what a saved pipeline has


def fit_folder(
    folder: Path,
    steps: int,
    *,
    prompts: Path | None,
    device: str | None = None,
    dtype: str | None = None,
    guidance: float | None = None,
    **options: Any,
) -> Plan:
    """`fastdiff.fit_pipeline` on the pipeline that `save_pretrained` wrote to the folder; nothing is downloaded.

    prompts: a file with a text a line. guidance: the pipeline's guidance_scale; its own where None.
    Raises ValueError naming the option, and what `fastdiff.fit_pipeline` raises.
    """
    texts = read_prompts(prompts)
    pipe = load_pipeline(folder, device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype or DTYPES[0])
    if guidance is not None:
        options["guidance_scale"] = guidance
    report = options.get("report")
    if report is not None:
        report(fitting.HEADER)
    return fit_pipeline(pipe, texts, steps, **options)


def read_prompts(path: Path | None) -> list[str]:
    """The lines of a file that hold a text. Raises ValueError or OSError naming the option and the file."""
    if path is None:
        raise ValueError("--prompts: a pipeline needs a file with a text a line")
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise OSError(f"--prompts: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts: {path}: {error}") from error
    if not texts:
        raise ValueError(f"--prompts: {path} holds no text")
    return texts


def load_pipeline(folder: Path, device: str, dtype: str) -> Any:
    """The pipeline in a folder. Raises ValueError or RuntimeError naming the option."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"--pipeline: expected a folder with {INDEX}, as save_pretrained writes it, got {folder}")
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise RuntimeError("--pipeline: expected diffusers to be installed (pip install diffusers)") from error
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    if pipe.dtype != getattr(torch, dtype):  # an older one reads over the argument
        raise RuntimeError(
            f"--dtype: this diffusers loads {pipe.dtype} alone, expected {dtype} (pip install -U diffusers)"
        )
    pipe.set_progress_bar_config(disable=True)  # there would be a bar for each evaluation
    return pipe.to(device)

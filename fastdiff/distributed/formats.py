"""The files of a job's shards: tensors, a tar of WebDataset, or a folder of pictures. One content, the same bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import files

INSTALL = "pip install 'fastdiff[jobs]'"


class Format(NamedTuple):
    """How a shard is kept. save(path, seeds, content) writes it whole or not at all; load(path) is its content.

    content: [n, ...] a tensor, or uint8 where it is pictures, [n, h, w] or [n, h, w, 3]. module: what it needs.
    """

    suffix: str
    save: Callable[[Path, list[int], Tensor], None]
    load: Callable[[Path], Tensor]
    pictures: bool = False
    module: str | None = None


def save_tensors(path: Path, seeds: list[int], content: Tensor) -> None:
    """`x` and `seeds` in a safetensors file."""
    tensors = {"x": content.contiguous(), "seeds": torch.tensor(seeds)}
    files.write(path, lambda partial: save_file(tensors, partial))


def load_tensors(path: Path) -> Tensor:
    """What `save_tensors` kept."""
    return load_file(path)["x"]


def save_tar(path: Path, seeds: list[int], content: Tensor) -> None:
    """SEED.png of pictures, SEED.npy of tensors, in a tar file that WebDataset reads."""
    import webdataset

    kind = "png" if content.dtype == torch.uint8 else "npy"

    def save(partial: Path) -> None:
        with webdataset.TarWriter(str(partial), encoder=False, mtime=0) as tar:
            for seed, each in zip(seeds, content.numpy(), strict=True):
                tar.write({"__key__": f"{seed:09d}", kind: encoded(each, kind)})

    files.write(path, save)


def load_tar(path: Path) -> Tensor:
    """What `save_tar` kept."""
    with tarfile.open(path) as tar:
        found = [decoded(tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return torch.from_numpy(np.stack(found))


def save_pictures(path: Path, seeds: list[int], content: Tensor) -> None:
    """SEED.png in a folder."""

    def save(partial: Path) -> None:
        for seed, each in zip(seeds, content.numpy(), strict=True):
            (partial / f"{seed:09d}.png").write_bytes(encoded(each, "png"))

    files.write_folder(path, save)


def load_pictures(path: Path) -> Tensor:
    """What `save_pictures` kept."""
    return torch.from_numpy(np.stack([decoded(each.read_bytes()) for each in sorted(path.iterdir())]))


def encoded(array: np.ndarray, kind: str) -> bytes:
    """A picture as png, an array as npy."""
    file = io.BytesIO()
    if kind == "png":
        Image.fromarray(array).save(file, format="PNG")
    else:
        np.save(file, array)
    return file.getvalue()


def decoded(content: bytes) -> Any:
    """What `encoded` made."""
    file = io.BytesIO(content)
    return np.load(file) if content.startswith(b"\x93NUMPY") else np.asarray(Image.open(file))


FORMATS = {
    "safetensors": Format(".safetensors", save_tensors, load_tensors),
    "webdataset": Format(".tar", save_tar, load_tar, module="webdataset"),
    "png": Format("", save_pictures, load_pictures, pictures=True),
}

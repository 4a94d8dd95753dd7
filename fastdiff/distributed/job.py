"""A job: which seeds are drawn together, in which shard they are, and what its manifest says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .digests import described
from .draw import Draw
from .formats import FORMATS, INSTALL
from .seeds import Seeds


class Job:
    """What is drawn, the same in all processes. Arguments and errors are those of `sample_to`."""

    def __init__(
        self,
        draw: Draw | Callable[[list[int]], Tensor],
        seeds: Sequence[int],
        format: str,
        shard: int,
        micro_batch: int,
        batch: int | None,
        threads: int,
        images: Callable[[Tensor], Any] | None,
        told: Mapping[str, object] | None,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
        needed = FORMATS[format].module
        if needed is not None and importlib.util.find_spec(needed) is None:
            raise ImportError(f"format: {format!r} needs {needed}; {INSTALL}")
        if FORMATS[format].pictures and images is None:
            raise ValueError(f"images: {format!r} needs a function from samples to pictures")
        sizes = {"micro_batch": micro_batch, "shard": shard, "batch": batch or micro_batch, "threads": threads}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
        if shard % micro_batch:
            raise ValueError(f"shard: expected a multiple of the micro_batch {micro_batch}, got {shard}")
        if not isinstance(draw, Draw) and not told:
            raise ValueError("told: a folder has to know a function again, say what it draws: told={'model': ...}")
        self.draw, self.seeds, self.format, self.images, self.told = draw, Seeds(seeds), format, images, told
        self.shard, self.micro_batch, self.threads = shard, micro_batch, threads
        self.together = -(-(batch or micro_batch) // micro_batch)  # micro-batches

    def manifest(self) -> dict[str, Any]:
        """What the folder is begun with."""
        said = dict(self.told or {})
        if isinstance(self.draw, Draw):
            ends = (self.seeds.runs[0][0], self.seeds.runs[-1][-1])
            said = {**self.draw.told([seed for end in ends for seed in self._block(end // self.micro_batch)]), **said}
        content = {
            "fastdiff_job": 1,
            "seeds": str(self.seeds),
            "format": self.format,
            "shard": self.shard,
            "micro_batch": self.micro_batch,
            "threads": self.threads,
            "images": None if self.format == "safetensors" else described(self.images),
            "versions": {name: metadata.version(name) for name in ("fastdiff", "torch")},
            **said,
        }
        return json.loads(json.dumps(content))

    def wanted(self, number: int) -> list[int]:
        """The seeds of a shard."""
        return self.seeds.within(number * self.shard, (number + 1) * self.shard)

    def place(self, number: int) -> int:
        """How many seeds come before a shard's."""
        return self.seeds.before(number * self.shard)

    def contents(self, seeds: list[int]) -> Iterator[Tensor]:
        """What the shard of these seeds holds, in parts."""
        blocks = {k: list(own) for k, own in groupby(seeds, lambda seed: seed // self.micro_batch)}
        numbers = list(blocks)
        for first in range(0, len(numbers), self.together):
            now = numbers[first : first + self.together]
            every = [seed for k in now for seed in self._block(k)]
            with _threads(self.threads):
                x = self._samples(every)
            places = [i * self.micro_batch + s % self.micro_batch for i, k in enumerate(now) for s in blocks[k]]
            yield self._content(x[torch.tensor(places, device=x.device)])

    def _samples(self, seeds: list[int]) -> Tensor:
        if isinstance(self.draw, Draw):
            return self.draw(seeds, self.micro_batch)
        size = self.micro_batch
        parts = [self.draw(seeds[i : i + size]) for i in range(0, len(seeds), size)]
        if not all(isinstance(x, Tensor) and len(x) == size for x in parts):
            raise ValueError(f"draw: expected a tensor of the {size} samples of as many seeds")
        return torch.cat(parts)

    def _content(self, x: Tensor) -> Tensor:
        """On the CPU, as pictures where the format wants them."""
        if self.images is None or self.format == "safetensors":
            return x.cpu()
        found = torch.as_tensor(self.images(x)).cpu()
        if found.dtype != torch.uint8 or found.ndim not in (3, 4) or len(found) != len(x):
            shape = f"{found.dtype} {list(found.shape)}"
            raise ValueError(f"images: expected uint8 [{len(x)}, h, w] or [{len(x)}, h, w, 3], got {shape}")
        return found

    def _block(self, number: int) -> range:
        return range(number * self.micro_batch, (number + 1) * self.micro_batch)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

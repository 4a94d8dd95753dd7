"""The trajectories that rows are fitted to: drawn a batch at a time, kept in memory or in files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .budget import Exhausted
from .convergence import Converged
from .folder import Folder
from .memory import size_of
from .references import require_finite
from .target import FitTarget
from .trajectory import Rows, Trajectory, points_of


class Tracer:
    """Draws runs of a converged plan, within a `with` that lasts as long as they are needed.

    Each batch is a file of its own in the folder, as soon as it is drawn, and what is there is not drawn again.

    converged: the plan, and the first samples' runs where they are known. memory: bytes that the trajectories may take,
    on the noise's device. Larger ones are read from the files, a few rows [N, ...] at a time, with the same result bit
    for bit; where there is no folder, from temporary ones.
    """

    def __init__(self, target: FitTarget, converged: Converged, count: int, folder: Folder, memory: int) -> None:
        self.target, self.plan, self.first = target, converged.plan, converged.runs
        self.count, self.folder, self.limit = count, folder.of_plan(self.plan), memory
        self.device = target.noise.device
        self._temporary: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> Tracer:
        if self.on_disk and (self.folder.path is None or not self.target.ranks.is_first):
            self._temporary = tempfile.TemporaryDirectory(prefix="fastdiff-", ignore_cleanup_errors=True)
        return self

    @property
    def files(self) -> Path | None:
        """Where rows are read from: the folder, of the process that writes there, or a temporary one."""
        return self.folder.path if self._temporary is None else Path(self._temporary.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def size(self) -> int:
        """Bytes of all trajectories."""
        return self.target.traced_bytes(self.plan, self.count)

    @property
    def on_disk(self) -> bool:
        """Whether they are left in files."""
        return self.size > self.limit

    @property
    def told(self) -> str:
        """Their size and their place."""
        place = f"in files in {self.files}" if self.on_disk else "in memory"
        return f"{size_of(self.size)} of trajectories {place}"

    @property
    def known(self) -> int:
        """How many of the runs need not be drawn."""
        first, length = 0, 1
        while self.folder.path is not None and length and first < self.count:
            length = _length(self.folder.path / _name(first))
            first += length
        return min(max(first, 0 if self.first is None else self.first[0].shape[1]), self.count)

    def draw(self) -> Trajectory:
        """The runs of the first samples. Raises Exhausted where the budget ends before the first batch is drawn."""
        states: list[Any] = []
        data: list[Any] = []
        done = 0
        try:
            while done < self.count:
                done += self._part(done, states, data)
        except Exhausted:
            if not done:
                raise
        count = min(done, self.count)
        rows = (Rows(parts, count, self.device) for parts in (states, data))
        return Trajectory(points_of(self.plan), *rows)

    def _part(self, first: int, states: list[Any], data: list[Any]) -> int:
        """One batch from the folder, or from the model; how many samples it has."""
        saved = self.folder.load_tensors(_name(first))
        if saved is None:
            tensors = self._drawn(first)
            self.folder.save_tensors(_name(first), tensors, {})
        else:
            tensors = saved[0]
        length = tensors["states"].shape[1]
        if self.on_disk:
            assert self.files is not None  # as it was made in the beginning
            if self._temporary is not None:
                save_file(tensors, self.files / _name(first))
            file = safe_open(self.files / _name(first), framework="pt")
            states.append(file.get_slice("states"))
            data.append(file.get_slice("data"))
        else:
            states.append(tensors["states"].to(self.device))
            data.append(tensors["data"].to(self.device))
        return length

    def _drawn(self, first: int) -> dict[str, Tensor]:
        device = torch.device("cpu") if self.on_disk else self.device
        if self.first is not None and first == 0:
            states, data = (runs[:, : self.count].to(device).contiguous() for runs in self.first)
            self.first = None
        else:
            places = torch.arange(first, min(first + self.target.together, self.count))
            states, data = self.target.trace(self.plan, places, device)
        require_finite(states[-1])
        return {"states": states, "data": data}


def _length(path: Path) -> int:
    """How many samples a file has; 0 where there is none."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.get_slice("states").get_shape()[1])


def _name(first: int) -> str:
    return f"trajectory-{first}.safetensors"

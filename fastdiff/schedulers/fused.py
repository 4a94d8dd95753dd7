"""Fused: what every scheduler here shares. `step` finds the run it belongs to and applies the run's next row."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from weakref import ref

import numpy as np
import torch
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, empty_like, float32, is_grad_enabled
from torch.compiler import is_compiling

from ..ops import checks, dynamic_threshold, registry, solver_step
from ..ops.reference import compute_dtype, converted_output
from ..plans.row import Row
from ..plans.table import flat_row
from .state import OfRun, RunState, Threads, _threads
from .table import Entry, Table, Threshold, make_table
from .times import Times
from .traced import SCHEDULERS, traced_step
from .watch import Watch, differ

_HANDLES = itertools.count()
BOUNDS = ("clip_sample", "thresholding")  # options of a configuration by which x0 stays in a range
logger = logging.get_logger(__name__)


class Fused(Times):
    """A diffusers scheduler whose `step` is one row of a table.

    A class says which rows: `_rows(run, begin, key)`, for a run whose first step is number `begin`, and for the options
    `key` that its `step` was given. Everything else (configuration, times, add_noise, saving) is diffusers' own.
    """

    timesteps, sigmas, num_inference_steps, custom_timesteps = OfRun(), OfRun(), OfRun(), OfRun()
    model_outputs, lower_order_nums, last_sample = OfRun(), OfRun(), OfRun()
    _step_index, _begin_index = OfRun(), OfRun()
    _threads: Threads
    _result = "output"  # whose dtype x' has: the model "output"'s, the "sample"'s, or the wider one of "both"
    _second: str | None = None  # what a step gives besides x': its converted output, "d", or what it writes to "base"
    _final = "final_alpha_cumprod"  # where diffusers keeps alpha^2 before the first training time
    _keeps = True  # whether D is kept where no later row reads it: diffusers has model_outputs, or step gives it
    _needs_steps = True  # whether set_timesteps has to come first
    _read_by_step: tuple[str, ...] = ()  # the scheduler's own attributes that rows are made from
    _read_of_run = ("timesteps", "sigmas")  # the run's tensors that rows are made from
    _by_place = False  # whether a run begins at the very element of timesteps that it is given, not at its value

    def __new__(cls, *args: object, **kwargs: object) -> Fused:
        self = super().__new__(cls)
        self._threads = _threads(RunState())
        self._register()
        return self

    def _register(self) -> None:
        self._handle = next(_HANDLES)
        self._settings: object = None  # what the tables are for
        self._tables: dict[tuple, Table] = {}
        SCHEDULERS[self._handle] = self

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_handle", "_tables", "_settings")}

    @classmethod
    def from_config(cls, config: object = None, *args: object, **kwargs: object) -> object:
        """diffusers' own; warns where the configuration bounds x0 and this class does not."""
        made = super().from_config(config, *args, **kwargs)
        known = inspect.signature(cls.__init__).parameters
        asked = [name for name in BOUNDS if isinstance(config, dict) and config.get(name)]
        if asked and not any(name in known for name in asked):
            advice = _advice(known)
            logger.warning(f"{cls.__name__} does not bound x0, and the configuration asks for {asked[0]}. {advice}")
        return made

    # What a class says.

    def _rows(self, run: RunState, begin: int, key: tuple[float, ...]) -> tuple[Sequence[Row], tuple[float, float]]:
        """The rows from step `begin` on, and (alpha, sigma) of the end."""
        raise NotImplementedError

    _clamp: float | None = None

    @property
    def _threshold(self) -> Threshold | None:
        config = self.config
        if not getattr(config, "thresholding", False):
            return None
        return Threshold(config.prediction_type, config.dynamic_thresholding_ratio, config.sample_max_value)

    # The run.

    def _prepare(self, run: RunState) -> None:
        """Read times and levels to the host: the one time that it waits for them, unless they are edited."""
        run.times = run.timesteps.double().cpu().numpy().copy()
        levels = [getattr(run, name, None) for name in self._read_of_run if name != "timesteps"]
        levels = [values.double().cpu().numpy() for values in levels if values is not None]
        run.levels = np.concatenate(levels) if levels else None
        if hasattr(self, "alphas_cumprod"):
            run.alphas_cumprod = self.alphas_cumprod.double().cpu().numpy().copy()
            run.final_alpha_cumprod = float(getattr(self, self._final, 1.0))
        run.table = run.scales = None
        run.watch = Watch(self, run)

    def _find(self, timestep: object, sample: Tensor) -> RunState:
        """The run that this step continues or begins; `fastdiff.schedulers` says how it is told."""
        threads = self._threads
        run = threads.run
        self._require_steps(run)
        place = run.place(timestep) if run._step_index is None else None
        if place is not None:
            self._begin(run, place, timestep)
            return run
        for run in threads.runs:
            if run.last is not None and run.last() is sample:
                return threads.use(run)
        own = [run for run in threads.runs if run.place(timestep) is not None]
        place = own[0].place(timestep) if own else None
        waiting = [run for run in own if run._step_index == place]
        run = waiting[0] if waiting else threads.run if threads.run in own or not own else own[0]
        if run._step_index is not None and not waiting and self._begins(run, place, timestep):
            run = run.again()
        if run._step_index is None:
            self._begin(run, place, timestep)
        return threads.use(run)

    def _begins(self, run: RunState, place: int | None, timestep: object) -> bool:
        """Whether a step that the run does not wait for is the first of a new one."""
        if place is not None:
            return place == run.begin
        self._refresh(run)
        time = float(timestep)
        return time == run.times[run.begin] and (run.over or time != run.times[run._step_index])

    def _begin(self, run: RunState, place: int | None, timestep: object) -> None:
        self._refresh(run, run.watch is not None and run.watch.blind)
        if run._begin_index is not None:
            run._step_index = run._begin_index
        elif place is not None:
            run._step_index = place if self._by_place else self._index_of(run.times[place], run.times)
        else:
            run._step_index = self._index_of(float(timestep), run.times)
        run.begin, run.lower_order_nums, run.table = run._step_index, 0, None

    def _refresh(self, run: RunState, always: bool = False) -> None:
        """Read again what a host has changed since it was last read."""
        if always or run.times is None or run.watch is None or run.watch.is_stale(self):
            self._prepare(run)

    def _require_steps(self, run: RunState) -> None:
        if self._needs_steps and run.num_inference_steps is None:
            raise ValueError("num_inference_steps: expected set_timesteps to be called before step")

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Where a run that is given this time begins: 0 if it is the first time, else its second place, if it has two.

        The second, as in diffusers: where each step has two evaluations, a step begins there.
        """
        run = self._threads.run
        if schedule_timesteps is None:
            self._refresh(run)
            return self._index_of(float(timestep), run.times)
        return self._index_of(float(timestep), schedule_timesteps.double().cpu().numpy())

    def _index_of(self, time: float, times: np.ndarray) -> int:
        found = np.flatnonzero(times == time)
        if not len(found):
            return self._absent(time)
        return int(found[min(1, len(found) - 1)]) if found[0] else 0

    def _absent(self, timestep: object) -> int:
        raise IndexError(f"timestep: expected one of scheduler.timesteps, got {timestep}")

    def _table(self, run: RunState, key: tuple[float, ...]) -> Table:
        """The run's rows, which also begin where a host has moved it to."""
        run.table, run.key = self._kept(run, (run.begin, key), lambda: self._make_table(run, key)), key
        return run.table

    def _make_table(self, run: RunState, key: tuple[float, ...]) -> Table:
        rows, end = self._rows(run, run.begin, key)
        return make_table(rows, end, self._clamp, self._threshold, self._keeps)

    def _kept(self, run: RunState, what: object, make: Callable[[], object]) -> object:
        """make(), or what it gave for a run of the same times: kept as long as the scheduler's settings stay."""
        self._refresh(run)
        settings = run.watch.settings(run)
        if len(self._tables) >= 64 or differ(self._settings, settings):
            self._settings = settings
            self._tables.clear()
        levels = b"" if run.levels is None else run.levels.tobytes()
        custom = getattr(run, "custom_timesteps", False)
        name = (run.times.tobytes(), levels, custom, run.num_inference_steps, what)
        made = self._tables.get(name)
        if made is None:
            made = self._tables[name] = make()
        return made

    # The step.

    def _advance(
        self,
        m: Tensor,
        timestep: object,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        key: tuple[float, ...] = (),
        predicted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(the next sample, `_second`), each [B, ...]. key: the options that `step` was given, as numbers."""
        if is_compiling():
            if generator is not None or predicted is not None:
                raise ValueError("generator: expected none inside torch.compile, and no learned variance")
            return traced_step(self, m, timestep, x, noise, key)
        run = self._threads.run
        if run.last is None or run.last() is not x:
            run = self._find(timestep, x)
        if run.watch is None or run.watch.is_stale(self):
            self._prepare(run)
        i, outputs, table = run._step_index, run.model_outputs, run.table
        known, row = run.lower_order_nums, i - run.begin
        if table is None or run.key != key or known != min(row, len(outputs)):
            if known < len(outputs) and row:
                run.begin = max(0, i - known)
                row = i - run.begin
            table = self._table(run, key)
            outputs[:0] = [None] * (table.depth - len(outputs))
        if row >= len(table.entries):
            raise IndexError(f"step: expected {len(run.timesteps)} steps since set_timesteps, this is one more")
        entry, shape = table.entries[row], x.shape
        if m.shape != shape:
            m = self._fitting(m, x)
        history = outputs[: -entry.reads - 1 : -1] if entry.reads else []
        if entry.output:
            history.append(m)
        if entry.draws:
            drawn = self._noise(run, i, m, x, generator) if noise is None else noise
            checks.require_shape("variance_noise", drawn, shape)
            drawn = drawn.to(x.device)
            history.append(drawn if predicted is None else drawn * self._deviation(run, i, predicted))
        if table.x0 is not None:
            m = self._limited(table.x0[row], x, m, table.threshold)
        base, move = x if run.last_sample is None else run.last_sample, entry.move
        new, new_base, d = self._apply(run, table.records, row, entry, x, base, m, history)
        run.last_sample = None if move == "next" else new_base if move == "write" else x if move == "here" else base
        if entry.keeps:
            del outputs[0]
            outputs.append(d)
            for k in entry.drop_history:
                del outputs[-1 - k]
                outputs.insert(0, None)
        if known < len(outputs):
            run.lower_order_nums = known + 1
        run._step_index = i + 1
        run.last = ref(new) if row + 1 < len(table.entries) else None
        return new, d if self._second == "d" else new_base

    def _apply(
        self,
        run: RunState,
        records: np.ndarray,
        row: int,
        entry: Entry,
        x: Tensor,
        base: Tensor,
        m: Tensor,
        history: list[Tensor],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(x', base' where it is written, D where it is kept)."""
        dtype, writes = x.dtype, entry.move == "write"
        case = (x.shape, dtype, x.device)
        if run.case != case:
            self._check(m, x)
            kernel_case = registry.CallSpec(x.device.type, dtype, tuple(x.shape))
            run.case, run.kernel = case, registry.choose("solver_step", kernel_case)
        result = dtype if m.dtype is dtype else self._result_dtype(m.dtype, dtype)
        if type(x) is not Tensor or type(m) is not Tensor or (is_grad_enabled() and _differentiable(x, m, history)):
            made = solver_step(x, m, flat_row(records[row]), base=base, history=history, write_base=writes)
            return made.x.to(result), made.base, made.converted
        exact = dtype if dtype is float32 else compute_dtype(dtype)
        new = empty_like(x) if result is dtype else empty_like(x, dtype=result)
        d = None if not entry.keeps else empty_like(x) if exact is dtype else empty_like(x, dtype=exact)
        new_base = empty_like(x, dtype=exact) if writes else None
        run.kernel(records, row, x, base, m, None, history, None, None, None, new, new_base, d, None)
        return new, new_base, d

    def _result_dtype(self, output: torch.dtype, sample: torch.dtype) -> torch.dtype:
        """The dtype of x'."""
        return {"output": output, "sample": sample}.get(self._result) or torch.promote_types(output, sample)

    def _limited(self, record: np.void, x: Tensor, m: Tensor, threshold: Threshold) -> Tensor:
        """x0 [B, ...] after dynamic thresholding: where the largest limit is below 1, it is the limit."""
        ratio, most = threshold.ratio, threshold.limit
        limit = dynamic_threshold(converted_output(record, x, m, None, None), ratio=ratio, limit=max(most, 1.0))
        limit = limit.clamp(max=most)
        return solver_step(x, m, flat_row(record), threshold=limit).converted

    def _fitting(self, m: Tensor, x: Tensor) -> Tensor:
        """The part of the output that predicts; the rest is a variance that no ODE solver uses."""
        self._check(m, x)
        if m.ndim == x.ndim > 1 and m.shape[1] == 2 * x.shape[1] and getattr(self.config, "variance_type", False):
            return m[:, : x.shape[1]]
        raise ValueError(f"model_output: expected shape {tuple(x.shape)}, as the sample's, got {tuple(m.shape)}")

    def _noise(
        self, run: RunState, i: int, m: Tensor, x: Tensor, generator: torch.Generator | list[torch.Generator] | None
    ) -> Tensor:
        """Step i's noise, drawn as diffusers draws it: the same generator gives the same image."""
        return randn_tensor(x.shape, generator=generator, device=m.device, dtype=m.dtype)

    @staticmethod
    def _check(m: Tensor, x: Tensor) -> None:
        checks.require_float("sample", x)
        checks.require_float("model_output", m)
        checks.require_device("model_output", m, x)


def _advice(options: object) -> str:
    """What to do for x0 to be bounded all the same."""
    if "thresholding" in options:
        return "thresholding=True with sample_max_value=1.0 clips it to [-1, 1], as clip_sample does."
    return "Samples may leave the data's range."


def _differentiable(*tensors: object) -> bool:
    x, m, history = tensors
    return x.requires_grad or m.requires_grad or any(h.requires_grad for h in history)

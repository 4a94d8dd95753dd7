"""FusedScheduler: a diffusers scheduler whose `step` is one row of a table. A Recipe says which rows.

A class of diffusers that is not here yet takes about 20 lines, in a file by its name; euler.py is a pattern.

1. The rows come from `fastdiff.plans.solvers`. `points` are where the run's steps begin and end, alpha and sigma each.
   `fastdiff.schedulers.rows` has what diffusers' conventions need besides.
2. The space (`fastdiff.schedulers.spaces`) says what the times and sigmas are, and what set_timesteps may be given.
3. `fused_step` takes over the signature and docstring of diffusers' own step. Its arguments `key`, `native` and `check`
   are for options that change the rows, for those that stay diffusers' own, and for what has to be refused.
4. `scale_model_input = scale_model_input` where the model reads c_in x, that is in SIGMA and EDM.
5. Attributes that diffusers' set_timesteps or step sets, and that belong to a run, are declared as `RunAttribute()`.
6. Name the class in `fastdiff/schedulers/__init__.py`, and in docs/deviations.md what it does differently on purpose.
   The tests of parity, times and state run over all names there.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

from .advance import advance
from .compile import SCHEDULERS
from .recipe import Recipe, Rows
from .rows import Table, Threshold, make_table
from .run_state import Key, RunAttribute, RunState, ThreadLocalRuns, new_run
from .runs import index_of
from .space import Wanted, checked
from .watch import Watch, differ

MAX_TABLES = 64  # kept of a scheduler, for its settings at the time
BOUNDS = ("clip_sample", "thresholding")  # options of a configuration by which x0 stays in a range
_HANDLES = itertools.count()
logger = logging.get_logger(__name__)


class FusedScheduler:
    """Before diffusers' class in the order of bases: configuration, add_noise and saving stay diffusers' own."""

    timesteps, sigmas, num_inference_steps, custom_timesteps = (RunAttribute() for _ in range(4))
    model_outputs, lower_order_nums, last_sample = (RunAttribute() for _ in range(3))
    _step_index, _begin_index = RunAttribute(), RunAttribute()
    _threads: ThreadLocalRuns
    _handle: int
    _settings: object  # what the tables are for
    _tables: dict[tuple, Any]
    recipe: Recipe
    config: Any

    def __new__(cls, *args: object, **kwargs: object) -> FusedScheduler:
        self = super().__new__(cls)
        self._threads = ThreadLocalRuns.of(RunState())
        self._handle = next(_HANDLES)
        self._settings = None
        self._tables = {}
        SCHEDULERS[self._handle] = self
        return self

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_handle", "_tables", "_settings")}

    @classmethod
    def from_config(cls, config: object = None, *args: object, **kwargs: object) -> object:
        """diffusers' own; warns where the configuration bounds x0 and this class does not."""
        asked = [name for name in BOUNDS if isinstance(config, dict) and config.get(name)]
        known = _bounds_of(cls)
        if asked and not set(known) & set(asked):
            advice = "Samples may leave the data's range."
            if "thresholding" in known:
                advice = "thresholding=True with sample_max_value=1.0 clips it to [-1, 1], as clip_sample does."
            logger.warning(f"{cls.__name__} does not bound x0, and the configuration asks for {asked[0]}. {advice}")
        return super().from_config(config, *args, **kwargs)

    # The times of a run.

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *args: object,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        **options: object,
    ) -> None:
        """Set the times of a run and begin anew.

        num_inference_steps: how many steps. device: of timesteps. timesteps: the times at which the model is called,
        instead. sigmas: instead, sigma(t) = sigma / alpha with the last one's end among them; of flow schedules t,
        without the end, before their shift. mu: on flow schedules, exp(mu) is the shift, of this run alone; elsewhere
        it changes nothing.
        options: diffusers' own. Raises ValueError naming the argument.
        """
        wanted = Wanted(timesteps, sigmas, mu)
        with new_run(self) as run:
            self._resolve_times(run, num_inference_steps, device, args, options, wanted)

    def _resolve_times(
        self, run: RunState, steps: int | None, device: object, args: tuple, options: dict, wanted: Wanted
    ) -> None:
        """What diffusers' set_timesteps makes, if it takes what is wanted right; else placed on top of that."""
        space, native = self.recipe.space, super().set_timesteps
        given = wanted.given if space.flows(self) else wanted.listed
        if space.is_native(self, given, tuple(inspect.signature(native).parameters)):
            arrays = {name: np.array(values) for name, values in given.items() if name == "sigmas"}
            native(steps, device, *args, **{**given, **arrays}, **options)
            self._mend_times(run)
            return
        wanted = checked(self, steps, wanted)
        count = steps or space.count(self, wanted)
        native(count, device, *args, **options)
        times, sigmas = space.place(self, run, count, wanted)
        dtype = torch.float32 if space.fractional else torch.int64
        run.timesteps = torch.from_numpy(np.asarray(times, np.float64)).to(dtype).to(run.timesteps.device)
        run.num_inference_steps = count
        if sigmas is not None:
            run.sigmas = torch.from_numpy(np.asarray(sigmas, np.float32))

    def _mend_times(self, run: RunState) -> None:
        """Put right what diffusers' set_timesteps has made, where it is wrong."""

    def _prepare(self, run: RunState) -> None:
        """Read times and sigmas to the host: the one time that it waits for them, unless they are edited."""
        run.times = run.timesteps.double().cpu().numpy().copy()
        tensors = [getattr(run, name, None) for name in self.recipe.space.run_tensors if name != "timesteps"]
        values = [tensor.double().cpu().numpy() for tensor in tensors if tensor is not None]
        run.host_sigmas = np.concatenate(values) if values else None
        if hasattr(self, "alphas_cumprod"):
            run.alphas_cumprod = self.alphas_cumprod.double().cpu().numpy().copy()
            run.final_alpha_cumprod = float(getattr(self, self.recipe.final_alpha, 1.0))
        run.table = run.scales = None
        run.watch = Watch(self, run)

    def _refresh(self, run: RunState, always: bool = False) -> None:
        """Read again what a host has changed since it was last read."""
        if always or run.times is None or run.watch is None or run.watch.is_stale(self):
            self._prepare(run)

    def _require_steps(self, run: RunState) -> None:
        if not self.recipe.space.ready and run.num_inference_steps is None:
            raise ValueError("num_inference_steps: expected set_timesteps to be called before step")

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Where a run that is given this time begins, see `runs.index_of`."""
        if schedule_timesteps is not None:
            return index_of(self, float(timestep), schedule_timesteps.double().cpu().numpy())
        self._refresh(self._threads.run)
        return index_of(self, float(timestep), self._threads.run.times)

    # The table of a run.

    def _table(self, run: RunState, key: Key) -> Table:
        """The run's rows, which also begin where a host has moved it to."""

        def make() -> Table:
            clamp, threshold = self._bounds()
            return make_table(self._rows(run, key), clamp, threshold, self.recipe.keeps_output)

        run.table, run.key = self._remembered(run, (run.begin, run.scaled, key), make), key
        return run.table

    def _rows(self, run: RunState, key: Key) -> Rows:
        space = self.recipe.space
        rows = self.recipe.rows(self, run, space.points(self, run, run.begin), key)
        return [space.fit(self, row) for row in rows]

    def _bounds(self) -> tuple[float | None, Threshold | None]:
        """The bounds on x0: on its magnitude, and by dynamic thresholding."""
        config, known = self.config, _bounds_of(type(self)) if self.recipe.bounds_x0 else ()
        if "thresholding" in known and config.thresholding:
            return None, Threshold(config.prediction_type, config.dynamic_thresholding_ratio, config.sample_max_value)
        clips = "clip_sample" in known and config.clip_sample
        return getattr(config, "clip_sample_range", 1.0) if clips else None, None

    def _output_dtype(self, output: torch.dtype, sample: torch.dtype) -> torch.dtype:
        """The dtype of x', of the model's output's and the sample's."""
        which = {"output": output, "sample": sample}
        return which.get(self.recipe.output_dtype) or torch.promote_types(output, sample)

    def _remembered(self, run: RunState, what: object, make: Callable[[], Any]) -> Any:
        """make(), or what it gave for a run of the same times: kept as long as the scheduler's settings stay."""
        self._refresh(run)
        settings = run.watch.settings(run)
        if len(self._tables) >= MAX_TABLES or differ(self._settings, settings):
            self._settings = settings
            self._tables.clear()
        sigmas = b"" if run.host_sigmas is None else run.host_sigmas.tobytes()
        name = (run.times.tobytes(), sigmas, run.custom_timesteps, run.num_inference_steps, what)
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name]

    _advance = advance


@functools.cache
def _bounds_of(kind: type) -> tuple[str, ...]:
    """By which options a class bounds x0."""
    known = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    return tuple(name for name in BOUNDS if name in known)

"""set_timesteps of every class: besides a number of steps it takes `timesteps`, `sigmas` and `mu`.

What diffusers' own class takes, it is given. The rest is placed here, on the class's own schedule.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import numpy as np
import torch

from .state import RunState

FLAGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


class Times:
    """Before diffusers' class in the order of bases."""

    _own: tuple[str, ...] | None = None  # of timesteps, sigmas, mu: what diffusers takes right; None to look
    _float_times = False  # whether the model reads fractional times

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
        instead. sigmas: instead, the noise levels s = sigma / alpha with the last one's end among them; of flow
        schedules t, without the end, before their shift. mu: on flow schedules, exp(mu) is the shift, of this run
        alone. options: diffusers' own. Raises ValueError naming the argument.
        """
        # Tensors made outside inference mode count the edits that a host makes to them.
        with torch.inference_mode(False):
            self._set_times(num_inference_steps, device, args, options, timesteps=timesteps, sigmas=sigmas, mu=mu)

    def _set_times(
        self, num_inference_steps: int | None, device: object, args: tuple, options: dict, **given: object
    ) -> None:
        run = self._threads.use(RunState())
        given = {name: value for name, value in given.items() if value is not None}
        if self._takes(given):
            given = {name: np.array(value) if name == "sigmas" else value for name, value in given.items()}
            super().set_timesteps(num_inference_steps, device, *args, **given, **options)
            self._mend(run)
        else:
            self._check_times(num_inference_steps, **given)
            count = num_inference_steps or self._count(**given)
            super().set_timesteps(count, device, *args, **options)
            times, levels = self._placed(run, count, **given)
            dtype = torch.float32 if self._float_times else torch.int64
            run.timesteps = torch.from_numpy(np.asarray(times, np.float64)).to(dtype).to(run.timesteps.device)
            run.num_inference_steps = count
            if levels is not None:
                run.sigmas = torch.from_numpy(np.asarray(levels, np.float32))
        self._prepare(run)

    def _mend(self, run: RunState) -> None:
        """Put right what diffusers' set_timesteps has made, where it is wrong."""

    def _takes(self, given: dict[str, object]) -> bool:
        own = self._own
        if own is None:
            own = inspect.signature(super().set_timesteps).parameters
        return all(name in own for name in given)

    def _check_times(
        self,
        steps: int | None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        if timesteps is not None and sigmas is not None:
            raise ValueError("timesteps, sigmas: expected one of them, got both")
        for name, values in (("timesteps", timesteps), ("sigmas", sigmas)):
            if values is None:
                continue
            array = np.asarray(values, dtype=np.float64)
            if array.ndim != 1 or len(array) < 1 or not np.isfinite(array).all():
                raise ValueError(f"{name}: expected a sequence of numbers, got {values!r}")
            if name == "sigmas" and ((array[:-1] <= 0).any() or array[-1] < 0):
                raise ValueError(f"sigmas: expected numbers > 0, the last one >= 0, got {values!r}")
            flags = [flag for flag in FLAGS if getattr(self.config, flag, False)]
            if flags:
                raise ValueError(f"{name}: expected none with {flags[0]}, got {len(array)}")
            if steps is not None and steps != self._count(**{name: values}):
                raise ValueError(f"num_inference_steps: expected None or the number of {name}, got {steps}")
        if steps is None and timesteps is None and sigmas is None:
            raise ValueError("num_inference_steps: expected a number, or timesteps, or sigmas; got none of them")

    def _count(
        self, timesteps: Sequence[float] | None = None, sigmas: Sequence[float] | None = None, mu: float | None = None
    ) -> int:
        return len(timesteps) if timesteps is not None else len(sigmas) - 1

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(times, noise levels with the end) on the training schedule; run holds diffusers' own for as many steps."""
        if timesteps is not None:
            times, training = self._in_training(timesteps), self._training_levels()
            return times, np.append(np.interp(times, np.arange(len(training)), training), float(run.sigmas[-1]))
        if sigmas is None:
            return run.timesteps.double().cpu().numpy(), run.sigmas.double().numpy()
        levels = np.asarray(sigmas, dtype=np.float64)
        return self._time_of(levels[:-1]), levels

    def _in_training(self, timesteps: Sequence[float]) -> np.ndarray:
        """The caller's times, which have to be the model's."""
        times, last = np.asarray(timesteps, dtype=np.float64), len(self.alphas_cumprod) - 1
        if times.min() < 0 or times.max() > last:
            raise ValueError(f"timesteps: expected times from 0 to {last}, got {timesteps!r}")
        return times

    def _training_levels(self) -> np.ndarray:
        """s = sigma / alpha at each of the model's times."""
        table = self.alphas_cumprod.double().cpu().numpy()
        return np.sqrt((1 - table) / table)

    def _time_of(self, levels: np.ndarray) -> np.ndarray:
        """The model's times at noise levels s."""
        training = np.log(self._training_levels())
        times = np.interp(np.log(levels), training, np.arange(len(training)))
        return times if self._float_times else times.round()


class Stretched(Times):
    """Of classes with `shift_terminal`."""

    def stretch_shift_to_terminal(self, t: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray:
        """The times t, stretched so that the last is `shift_terminal`; one alone, at t = 1, stays where it is."""
        return t if t[-1] == 1 else super().stretch_shift_to_terminal(t)


class TimesAlone(Times):
    """Of classes that know no noise levels."""

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, None]:
        if timesteps is None and sigmas is None:
            return run.timesteps.cpu().numpy(), None
        run.custom_timesteps = True
        if timesteps is not None:
            return self._in_training(timesteps), None
        return self._time_of(np.asarray(sigmas, dtype=np.float64)[:-1]), None


class FlowTimes(Times):
    """Of classes that also have flow schedules, or those alone."""

    def _count(
        self, timesteps: Sequence[float] | None = None, sigmas: Sequence[float] | None = None, mu: float | None = None
    ) -> int:
        values = timesteps if timesteps is not None else sigmas
        return len(values) - (timesteps is None and not self._flows)

    def _placed(
        self,
        run: RunState,
        count: int,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if not self._flows:
            return super()._placed(run, count, timesteps=timesteps, sigmas=sigmas, mu=mu)
        total = self.config.num_train_timesteps
        if timesteps is not None:
            levels = np.asarray(timesteps, dtype=np.float64) / total
        else:
            own = 1 - np.linspace(1, 1 / total, count + 1)
            levels = own[:0:-1] if sigmas is None else np.asarray(sigmas, dtype=np.float64)
            shift = self.config.flow_shift if mu is None else math.exp(mu)
            levels = shift * levels / (1 + (shift - 1) * levels)
        if levels.min() <= 0 or levels.max() > 1:
            raise ValueError(f"sigmas: expected numbers in (0, 1], got {levels}")
        end = levels[-1] if run.sigmas[-1] == run.sigmas[-2] else float(run.sigmas[-1])
        return levels * total, np.append(levels, end)

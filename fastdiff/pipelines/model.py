"""A pipeline's networks as a model: each call runs the pipeline's own code for one evaluation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..plans.schedule import Schedule
from .reading import Reading, reading_of
from .runs import Runs
from .stand_in import Evaluated, Refused, Stopped


class PipelineModel:
    """model(x, t, which) -> what the pipeline's scheduler would be given, [B, ...].

    pipe: a diffusers pipeline; it stays as it is. arguments: its call's. Prompts are encoded here, once; the number of
    steps is read where the schedule's shift depends on it.
    noise: [N, ...] the pipeline's own, one for each prompt, unit Gaussian. schedule: its scheduler's.
    one_time: a call's samples all stand at one time.
    """

    one_time = True

    def __init__(self, pipe: Any, arguments: dict[str, Any]) -> None:
        self._pipe, self._runs = pipe, Runs(pipe, arguments)
        self.noise = self._runs.begun.latents
        self.schedule = Schedule.from_scheduler(pipe.scheduler, mu=self._runs.begun.told["mu"])
        self._reading = self._runs.reading = reading_of(pipe.scheduler, self.schedule)

    def __call__(self, x: Tensor, t: Tensor, which: Tensor | None = None) -> Tensor:
        """The prediction at x [B, ...] and t [B], the same for all samples; which [B]: the prompt of each."""
        places = self._places(x, which)
        if not bool((t == t[0]).all()):
            raise ValueError(f"t: a pipeline evaluates at one time for all samples, got {t.tolist()}")
        name = type(self._pipe).__name__
        try:
            self._runs.evaluate(x, t[:1].float(), places)
        except IndexError as error:
            raise Refused(f"pipe: {name} asks for other times than the one it is at") from error
        except Evaluated as evaluated:
            m = evaluated.prediction
        else:
            raise Refused(f"pipe: {name} ended without a step of its scheduler")
        if m.shape != x.shape:
            raise Refused(f"pipe: its scheduler is given a prediction of shape {tuple(m.shape)} for {tuple(x.shape)}")
        return m

    def modules(self) -> Iterator[nn.Module]:
        """Of all the pipeline's networks."""
        networks = [part for part in self._pipe.components.values() if isinstance(part, nn.Module)]
        return (module for network in networks for module in network.modules())

    def decode(self, x0: Tensor, which: Tensor | None = None) -> Any:
        """What the pipeline makes of its last latents x0 [B, ...]: its images, videos or sounds."""
        return self._runs.end(x0, self._places(x0, which))[0]

    def times(self, steps: int) -> np.ndarray:
        """The times, in the schedule's units, at which the pipeline's own scheduler evaluates in so many steps."""
        own = copy.deepcopy(self._pipe.scheduler)

        def told(**given: Any) -> None:
            own.set_timesteps(**{name: value for name, value in given.items() if value is not None})
            raise Stopped

        with contextlib.suppress(Stopped):
            self._runs.set_times(steps, told)
        values = own.timesteps if type(self._reading) is Reading else own.sigmas[: len(own.timesteps)]
        times = values.double().cpu().numpy()
        return times[np.append(True, np.diff(times) != 0)]  # some name a time twice that they evaluate at twice

    def _places(self, x: Tensor, which: Tensor | None) -> list[int] | None:
        """The prompt of each sample, or None where they are all prompts in their order."""
        if x.shape[1:] != self.noise.shape[1:]:
            expected = ", ".join(map(str, self.noise.shape[1:]))
            raise ValueError(f"noise: expected [B, {expected}], as the pipeline's own, got {tuple(x.shape)}")
        count = len(self.noise)
        if which is None:
            if len(x) != count:
                raise ValueError(f"which: expected the prompt of each of {len(x)} samples, of {count}, got None")
            return None
        places = torch.as_tensor(which).tolist()
        if len(places) != len(x) or not all(isinstance(i, int) and 0 <= i < count for i in places):
            raise ValueError(f"which: expected {len(x)} whole numbers from 0 to {count - 1}, got {places}")
        return None if places == list(range(count)) else places

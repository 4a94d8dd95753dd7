"""What a pipeline has for its scheduler while it evaluates its networks once: one time, and no step."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

from .reading import Reading


class Refused(ValueError):
    """Of a pipeline that does more than a model's call can say."""


class Stopped(BaseException):
    """Ends a pipeline's run early. Not an Exception, which a pipeline might catch."""


class Evaluated(Stopped):
    """With the prediction that the pipeline has made of its networks' outputs."""

    def __init__(self, prediction: Tensor) -> None:
        self.prediction = prediction


class StandIn:
    """A scheduler of the pipeline's configuration, whose run is one time, or none, and whose step ends it.

    scheduler: the pipeline's own, for its configuration and what else it knows. reading: what its network reads.
    t: [0] or [1] in the schedule's units. told: called with set_timesteps' arguments. result: what its step gives.
    Attributes are those that pipelines read.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self,
        scheduler: Any,
        reading: Reading | None,
        t: Tensor,
        told: Callable[..., object],
        result: Tensor | None = None,
    ) -> None:
        self._scheduler, self._reading, self._t, self._told, self._result = scheduler, reading, t, told, result
        self.config = scheduler.config
        self.timesteps = self.sigmas = t
        self.num_inference_steps = len(t)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._scheduler, name)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *,
        timesteps: object = None,
        sigmas: object = None,
        mu: float | None = None,
        **options: object,
    ) -> None:
        """Begin a run at the one time. The arguments are those that schedulers have; only `mu` says anything here."""
        self._told(num_inference_steps=num_inference_steps, timesteps=timesteps, sigmas=sigmas, mu=mu, **options)
        if self._reading is not None:
            self.timesteps, self.sigmas = (v.to(device) for v in self._reading.times(self._t))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Of a pipeline that begins at its first time."""
        if begin_index:
            raise Refused(f"pipe: begins at step {begin_index} of its run; only whole runs, from noise, are evaluated")

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """What the network reads."""
        return sample if self._reading is None else self._reading.scaled(sample, self._t)

    def step(
        self, model_output: Tensor, timestep: object, sample: Tensor, return_dict: bool = True, **options: object
    ) -> object:
        """Ends the run with the prediction, or gives the result, as the next sample and as x0."""
        if self._result is not None:
            both = {"prev_sample": self._result, "pred_original_sample": self._result, "denoised": self._result}
            return SimpleNamespace(**both) if return_dict else (self._result, self._result)
        assert self._reading is not None  # before it is known there is no time to step from
        raise Evaluated(self._reading.prediction(model_output, sample, self._t))

    def add_noise(self, *_: object, **__: object) -> NoReturn:
        """What pipelines that begin from an image call."""
        raise Refused(
            "pipe: puts noise on an image by itself; make the denoiser of the text-to-image pipeline with the same"
            " parts, and pass fastdiff.sample(..., image=, mask=)"
        )

    scale_noise = add_noise

"""A pipeline's networks as a model: each call runs the pipeline's own code for one evaluation."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.schedule import Schedule
from .arguments import for_samples
from .encodings import Recorder, replay, take
from .reading import Reading, reading_of
from .stand_in import Evaluated, Refused, StandIn, Stopped


class PipelineModel:
    """model(x, t, which) -> what the pipeline's scheduler would be given, [B, ...].

    pipe: a diffusers pipeline; it stays as it is. arguments: its call's. Prompts are encoded here, once; the number of
    steps is read where the schedule's shift depends on it.
    noise: [N, ...] the pipeline's own, one for each prompt, unit Gaussian. schedule: its scheduler's.
    """

    def __init__(self, pipe: Any, arguments: dict[str, Any]) -> None:
        self._pipe, self._arguments = pipe, arguments
        self._copies = _on_known_device(type(pipe))
        self._reading: Reading | None = None
        default = inspect.signature(type(pipe).__call__).parameters["num_inference_steps"].default
        self._steps = arguments.get("num_inference_steps", default)
        self._told: dict[str, Any] = {}
        self._prepared: dict[int, Any] = {}
        self._encoded, prepared = self._prelude(None)
        self.noise: Tensor = _latents(prepared)
        self._prepared[len(self.noise)] = prepared
        # Later runs are given x instead. Only a decoder may go on drawing where the pipeline's own run would.
        self._generator = _cloned(arguments.get("generator"))
        own = ("generator", "latents", "num_inference_steps")
        self._arguments = {name: value for name, value in arguments.items() if name not in own}
        self.schedule = Schedule.from_scheduler(pipe.scheduler, mu=self._told["mu"])
        self._reading = reading_of(pipe.scheduler, self.schedule)

    def __call__(self, x: Tensor, t: Tensor, which: Tensor | None = None) -> Tensor:
        """The prediction at x [B, ...] and t [B], the same for all samples; which [B]: the prompt of each."""
        places = self._places(x, which)
        if t.device.type == "cpu" and not bool((t == t[0]).all()):
            raise ValueError(f"t: a pipeline evaluates at one time for all samples, got {t.tolist()}")
        grad = torch.is_grad_enabled()
        try:
            self._run(
                t[:1].float(), places, lambda *args, **kwargs: self._begin(x, grad, *args, **kwargs), device=x.device
            )
        except IndexError as error:
            raise Refused(f"pipe: {type(self._pipe).__name__} asks for other times than the one it is at") from error
        except Evaluated as evaluated:
            m = evaluated.prediction
            if m.shape != x.shape:
                raise Refused(
                    f"pipe: its scheduler is given a prediction of shape {tuple(m.shape)} for {tuple(x.shape)}"
                ) from None
            return m
        raise Refused(f"pipe: {type(self._pipe).__name__} ended without a step of its scheduler")

    def decode(self, x0: Tensor, which: Tensor | None = None) -> Any:
        """What the pipeline makes of its last latents x0 [B, ...]: its images, videos or sounds."""
        places = self._places(x0, which)
        none = torch.empty(0, device=x0.device)
        generator = _cloned(self._generator)
        if isinstance(generator, list) and places is not None:
            generator = [generator[i] for i in places]
        result = self._run(
            none, places, lambda *args, **kwargs: self._begin(x0, False, *args, **kwargs), generator=generator
        )
        return result[0]

    def times(self, steps: int) -> np.ndarray:
        """The times, in the schedule's units, at which the pipeline's own scheduler evaluates in so many steps."""
        own = copy.deepcopy(self._pipe.scheduler)

        def told(**given: Any) -> None:
            own.set_timesteps(**{name: value for name, value in given.items() if value is not None})
            raise Stopped

        with contextlib.suppress(Stopped):
            self._run(torch.ones(1), None, None, told, num_inference_steps=steps)
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

    # The runs.

    def _run(
        self,
        t: Tensor,
        places: Sequence[int] | None,
        prepare: Callable[..., object] | None,
        told: Callable[..., object] = lambda **given: None,
        encode: Callable[..., object] | None = None,
        device: torch.device | None = None,
        **arguments: object,
    ) -> Any:
        """Call a copy of the pipeline for some prompts at the time t [1], or through no step at all where t is [0].

        prepare, told, encode: stand for prepare_latents, are told set_timesteps' arguments, make what stands for
        encode_prompt. device: the pipeline's, where x says it.
        """
        count = len(self._prepared and self.noise)
        call = self._arguments if places is None else for_samples(self._arguments, count, places)
        pipe = object.__new__(self._copies)
        vars(pipe).update(vars(self._pipe), known_device=device or self._pipe._execution_device)
        stand_in = StandIn(self._pipe.scheduler, self._reading, t, told)
        vars(pipe).update(scheduler=stand_in, _progress_bar_config={"disable": True})
        vars(pipe)["maybe_free_model_hooks"] = self._pipe.maybe_free_model_hooks
        if prepare is not None:
            vars(pipe)["prepare_latents"] = lambda *args, **kwargs: prepare(pipe, *args, **kwargs)
        if hasattr(pipe, "encode_prompt"):
            vars(pipe)["encode_prompt"] = encode(pipe) if encode else replay(self._encodings(places))
        return pipe(**{"num_inference_steps": 1, **call, **arguments}, return_dict=False)

    def _begin(self, x: Tensor, grad: bool, pipe: Any, *args: object, **kwargs: object) -> object:
        """Stands for `prepare_latents`: its result with x in place of the noise."""
        prepared = self._prepared.get(len(x))
        if prepared is None:
            prepared = self._prepared[len(x)] = _prepare(pipe, *args, **kwargs)
        torch.set_grad_enabled(grad)  # until the end of the pipeline's call, which has switched gradients off
        x = x.to(self.noise.dtype)
        return (x, *prepared[1:]) if isinstance(prepared, tuple) else x

    def _prelude(self, places: Sequence[int] | None) -> tuple[list[object], Any]:
        """(what encode_prompt returns, what prepare_latents does) of a run that ends before its first evaluation."""
        recorders: list[Recorder] = []
        prepared: list[Any] = []
        self._told = {}

        def stop_when_both() -> None:
            if prepared and self._told:
                raise Stopped

        def told(**given: object) -> None:
            self._told = given
            stop_when_both()

        def prepare(pipe: Any, *args: object, **kwargs: object) -> object:
            prepared.append(type(pipe).prepare_latents(pipe, *args, **kwargs))
            stop_when_both()
            return prepared[-1]

        def encode(pipe: Any) -> Recorder:
            recorders.append(Recorder(type(pipe).encode_prompt.__get__(pipe)))
            return recorders[-1]

        try:
            self._run(torch.ones(1), places, prepare, told, encode, num_inference_steps=self._steps)
        except Stopped:
            return recorders[0].results if recorders else [], prepared[0]
        raise Refused(f"pipe: {type(self._pipe).__name__} does not set its scheduler's times, or prepares no latents")

    def _encodings(self, places: Sequence[int] | None) -> Sequence[object]:
        if places is None:
            return self._encoded
        pairs = zip(self._encoded, self._probe, strict=True)
        return [take(full, probe, len(self.noise), places) for full, probe in pairs]

    @cached_property
    def _probe(self) -> list[object]:
        """The encodings of one prompt more: they tell along which dimensions samples lie."""
        return self._prelude([*range(len(self.noise)), 0])[0]


def _on_known_device(cls: type) -> type:
    """The pipeline's class without its search for a device through all modules, which takes as long as small networks.

    By name it is the same class: pipelines look theirs up.
    """
    device = property(lambda self: vars(self)["known_device"])
    return type(cls.__name__, (cls,), {"_execution_device": device, "__module__": cls.__module__})


def _prepare(pipe: Any, *args: object, **kwargs: object) -> Any:
    """The pipeline's own latents, from a generator of their own."""
    method = type(pipe).prepare_latents
    bound = inspect.signature(method).bind(pipe, *args, **kwargs)
    if "generator" in bound.arguments:
        bound.arguments["generator"] = torch.Generator()
    return method(*bound.args, **bound.kwargs)


def _cloned(generator: Any) -> Any:
    """Generators in the same state, or None."""
    if isinstance(generator, (list, tuple)):
        return [_cloned(one) for one in generator]
    return None if generator is None else torch.Generator(generator.device).set_state(generator.get_state())


def _latents(prepared: Any) -> Tensor:
    latents = prepared[0] if isinstance(prepared, tuple) else prepared
    if not isinstance(latents, Tensor):
        raise Refused(f"pipe: its prepare_latents returns {type(latents).__name__} where a tensor was expected")
    return latents

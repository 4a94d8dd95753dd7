"""Runs of a pipeline's own code that end where one evaluation does, or go through no step at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import for_samples
from .encodings import take
from .reading import Reading
from .stand_in import Refused, StandIn, Stopped


class Prelude(NamedTuple):
    """What a pipeline does before its first evaluation.

    encodings: what encode_prompt returned, call by call. prepared: what prepare_latents did. told: set_timesteps'
    arguments.
    """

    encodings: list[object]
    prepared: Any
    told: dict[str, Any]

    @property
    def latents(self) -> Tensor:
        """[N, ...] the pipeline's first latents. Raises ValueError where they are no tensor."""
        latents = self.prepared[0] if isinstance(self.prepared, tuple) else self.prepared
        if not isinstance(latents, Tensor):
            raise Refused(f"pipe: its prepare_latents returns {type(latents).__name__} where a tensor was expected")
        return latents


class Runs:
    """Runs of a pipeline for some of its prompts. Each is of a copy that shares its modules: the pipeline stays.

    pipe: a diffusers pipeline. arguments: its call's. begun: the prelude of all prompts, made here: prompts are
    encoded once. reading: how its networks read x and t, to be set before the first evaluation.
    """

    reading: Reading | None = None

    def __init__(self, pipe: Any, arguments: dict[str, Any]) -> None:
        self._pipe, self._copies = pipe, _on_known_device(type(pipe))
        parameters = inspect.signature(type(pipe).__call__).parameters
        self._steps = arguments.get("num_inference_steps", parameters["num_inference_steps"].default)
        self._arguments = {**arguments, **_generator_of(arguments, "generator" in parameters)}
        self.begun = self._prelude(None)
        self._count = len(self.begun.latents)
        self._prepared = {self._count: self.begun.prepared}
        # Later runs are given x. They draw what the pipeline's own does after its noise: images' encodings, decoders.
        self._generator = _cloned(self._arguments.get("generator"))
        own = ("generator", "latents", "num_inference_steps")
        self._arguments = {name: value for name, value in arguments.items() if name not in own}

    def evaluate(self, x: Tensor, t: Tensor, places: Sequence[int] | None) -> None:
        """Run to the first step from x [B, ...] at t [1]; raises `Evaluated` there, with gradients where they are on.

        places: the prompt of each sample, None for all in their order.
        """
        self._from(x, t, places, torch.is_grad_enabled())

    def end(self, x0: Tensor, places: Sequence[int] | None) -> Any:
        """What the pipeline returns of x0 [B, ...] after its last step."""
        try:
            return self._from(x0, torch.empty(0, device=x0.device), places, False)
        except UnboundLocalError:  # it ends with what its last step has given besides
            return self._from(x0, torch.ones(1, device=x0.device), places, False, result=x0)

    def set_times(self, steps: int, told: Callable[..., object]) -> None:
        """Run to where the scheduler is told a run of so many steps; `told` gets the arguments of set_timesteps."""
        self._run(torch.ones(1), None, self._replay(None), None, told, num_inference_steps=steps)

    def _from(
        self, x: Tensor, t: Tensor, places: Sequence[int] | None, grad: bool, result: Tensor | None = None
    ) -> Any:
        def prepare(pipe: Any, *args: object, **kwargs: object) -> object:
            prepared = self._prepared.get(len(x))
            if prepared is None:
                prepared = self._prepared[len(x)] = _prepare_anew(pipe, *args, **kwargs)
            torch.set_grad_enabled(grad)  # until the end of the pipeline's call, which has switched gradients off
            latents = x.to(self.begun.latents.dtype)
            return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents

        generator = _cloned(self._generator)
        if isinstance(generator, list) and places is not None:
            generator = [generator[i] for i in places]
        given = {} if generator is None else {"generator": generator}
        return self._run(t, places, self._replay(places), prepare, device=x.device, result=result, **given)

    def _run(
        self,
        t: Tensor,
        places: Sequence[int] | None,
        encode: Callable[..., object],
        prepare: Callable[..., object] | None,
        told: Callable[..., object] = lambda **given: None,
        device: torch.device | None = None,
        result: Tensor | None = None,
        **arguments: Any,
    ) -> Any:
        """Call a copy of the pipeline at the time t [1], or through no step at all where t is [0].

        encode, prepare: called as its methods encode_prompt and prepare_latents. told: called as set_timesteps.
        device: the pipeline's, where x says it. result: what a step returns, which ends the run where there is none.
        """
        call = self._arguments if places is None else for_samples(self._arguments, self._count, places)
        pipe: Any = object.__new__(self._copies)
        vars(pipe).update(
            vars(self._pipe),
            scheduler=StandIn(self._pipe.scheduler, self.reading, t, told, result),
            known_device=device or self._pipe._execution_device,
            maybe_free_model_hooks=self._pipe.maybe_free_model_hooks,
            _progress_bar_config={"disable": True},
        )
        for name, method in (("encode_prompt", encode), ("prepare_latents", prepare)):
            if method is not None and hasattr(pipe, name):
                vars(pipe)[name] = _bound(method, pipe)
        return pipe(**{"num_inference_steps": 1, **call, **arguments}, return_dict=False)

    def _prelude(self, places: Sequence[int] | None) -> Prelude:
        """That of some prompts, or of all."""
        encodings: list[object] = []
        prepared: list[Any] = []
        arguments: dict[str, Any] = {}

        def encode(pipe: Any, *args: object, **kwargs: object) -> object:
            encodings.append(type(pipe).encode_prompt(pipe, *args, **kwargs))
            return encodings[-1]

        def prepare(pipe: Any, *args: object, **kwargs: object) -> object:
            prepared.append(type(pipe).prepare_latents(pipe, *args, **kwargs))
            if arguments:
                raise Stopped
            return prepared[-1]

        def told(**given: object) -> None:
            arguments.update(given)
            if prepared:
                raise Stopped

        try:
            self._run(torch.ones(1), places, encode, prepare, told, num_inference_steps=self._steps)
        except Stopped:
            return Prelude(encodings, prepared[0], arguments)
        raise Refused(f"pipe: {type(self._pipe).__name__} does not set its scheduler's times, or prepares no latents")

    def _replay(self, places: Sequence[int] | None) -> Callable[..., object]:
        """Stands for encode_prompt and returns, call by call, the encodings of some prompts."""
        encodings = self.begun.encodings
        if places is not None:
            pairs = zip(encodings, self._one_more, strict=True)
            encodings = [take(all_of_them, more, self._count, places) for all_of_them, more in pairs]
        rest = iter(encodings)
        return lambda *args, **kwargs: next(rest)

    @cached_property
    def _one_more(self) -> list[object]:
        """The encodings of one prompt more: they tell along which dimensions samples lie."""
        return self._prelude([*range(self._count), 0]).encodings


def _bound(method: Callable[..., object], pipe: Any) -> Callable[..., object]:
    return lambda *args, **kwargs: method(pipe, *args, **kwargs)


def _on_known_device(cls: type) -> type:
    """The pipeline's class without its search for a device through all modules, which takes as long as small networks.

    By name it is the same class: pipelines look theirs up.
    """
    device = property(lambda self: vars(self)["known_device"])
    return type(cls.__name__, (cls,), {"_execution_device": device, "__module__": cls.__module__})


def _prepare_anew(pipe: Any, *args: object, **kwargs: object) -> Any:
    """The pipeline's own latents, from a generator of their own."""
    method = type(pipe).prepare_latents
    bound = inspect.signature(method).bind(pipe, *args, **kwargs)
    if "generator" in bound.arguments:
        bound.arguments["generator"] = torch.Generator()
    return method(*bound.args, **bound.kwargs)


def _generator_of(arguments: dict[str, Any], taken: bool) -> dict[str, Any]:
    """A generator, seeded from torch's own, where a pipeline takes one and is given none: or evaluations would draw."""
    if not taken or arguments.get("generator") is not None:
        return {}
    return {"generator": torch.Generator().manual_seed(int(torch.randint(2**62, ())))}


def _cloned(generator: Any) -> Any:
    """Generators in the same state, or None."""
    if isinstance(generator, (list, tuple)):
        return [_cloned(one) for one in generator]
    return None if generator is None else torch.Generator(generator.device).set_state(generator.get_state())

"""What a row asks the model, apart from who answers: generators that yield each `Ask` and are sent the output.

`fastdiff.sample` answers them with its model; a `Stepper` hands them to the host that drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Ask(NamedTuple):
    """One call, model(x, t, **conditions). x: [n, ...], n = B or several times that. t: [n].

    x requires a gradient where the graph from x to the output is wanted.
    """

    x: Tensor
    t: Tensor
    conditions: dict[str, object]


Asking = Generator[Ask, object, Any]
Asker = Callable[[Tensor, Tensor], Asking]  # (model input, t) -> what returns the arguments of `Run.apply` after i


def answered(asking: Asking, model: Callable) -> Any:
    """What the generator returns when this model answers."""
    output: object = None
    while True:
        try:
            ask = asking.send(output)
        except StopIteration as end:
            return end.value
        if ask.x.requires_grad:
            with recording():
                output = model(ask.x, ask.t, **ask.conditions)
        else:
            output = model(ask.x, ask.t, **ask.conditions)


def within(context: Callable[[], AbstractContextManager], asking: Asking) -> Asking:
    """The same, with all that is done between the questions in a context: never what their answers take."""
    output: object = None
    while True:
        with context():
            try:
                ask = asking.send(output)
            except StopIteration as end:
                return end.value
        output = yield ask


@contextmanager
def recording() -> Iterator[None]:
    """Gradients are recorded, also inside of no_grad and inference_mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield

"""How the model is called: its keyword arguments, its output, and classifier-free guidance (Ho & Salimans 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..ops import checks
from .asking import Ask, Asker, Asking
from .guidance_ranks import OutputRanks, check_group
from .network import as_model
from .rule import See

Model = Callable[..., Tensor]


def is_guided(guidance: float | Tensor | None) -> bool:
    """Whether an unconditional evaluation is needed; a scale of exactly 1 needs none."""
    return guidance is not None and (isinstance(guidance, Tensor) or guidance != 1)


def check_mode(guidance_mode: str, ranks: bool = False) -> None:
    """Raises ValueError unless it is one of the modes. ranks: whether 'ranks' may be one here."""
    if guidance_mode == "ranks" and not ranks:
        raise ValueError(
            "guidance_mode: 'ranks' is for sample, iter_sample, sample_adaptive and trace, one row at a time"
        )
    if guidance_mode not in ("batch", "calls", "ranks"):
        raise ValueError(f"guidance_mode: expected 'batch', 'calls' or 'ranks', got {guidance_mode!r}")


def check_guidance(
    guidance: float | Tensor | None, uncond: object, guidance_mode: str, batch: int, ranks: bool = False
) -> None:
    """Raises TypeError or ValueError naming the argument. ranks: as for `check_mode`."""
    check_mode(guidance_mode, ranks)
    if guidance is not None and not isinstance(guidance, (int, float, Tensor)):
        raise TypeError(f"guidance: expected a number or a tensor [B] here, got {guidance!r}")
    if is_guided(guidance) and uncond is None:
        raise ValueError("uncond: guidance needs the unconditional evaluation's keyword arguments, got None")
    if isinstance(guidance, Tensor):
        checks.require_shape("guidance", guidance, (batch,))
    elif guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"guidance: expected a finite number, got {guidance}")


class ModelCalls:
    """The model calls of one evaluation; `evaluator()` makes them, `asker()` leaves them to someone else.

    model, guidance, uncond, guidance_mode, kwargs: as for `fastdiff.sample`. shape: x's, [B, ...]. With guidance the
    model is called once on [unconditional; conditional] inputs ("batch"), or twice ("calls"), or by two processes of
    guidance_group ("ranks").

    model: what is called as model(x, t, **kwargs). guidance: the scale, or None where it is not used. copies: number of
    copies of x in the model input (2 for guidance in one batch). evaluations: how often a row evaluates the network for
    each sample. arguments: the keyword arguments of each call, the unconditional one first. see: what evaluators made
    from now on show the outputs to. apart: the processes that make the calls, where that is the mode.
    Raises ValueError naming the argument.
    """

    see: See | None = None

    def __init__(
        self,
        model: Model,
        shape: Sequence[int],
        guidance: float | Tensor | None = None,
        uncond: Mapping[str, object] | None = None,
        guidance_mode: str = "batch",
        kwargs: dict[str, object] | None = None,
        guidance_group: object = None,
    ) -> None:
        check_guidance(guidance, uncond, guidance_mode, shape[0], ranks=True)
        check_group(guidance_mode, guidance_group)
        self.model, self._shape = as_model(model), tuple(shape)
        self.guidance = guidance if is_guided(guidance) else None
        count = 1 if self.guidance is None else 2
        self.apart = OutputRanks(guidance_group, range(count)) if guidance_mode == "ranks" else None
        self.mode = "plain" if self.guidance is None else guidance_mode
        self.copies = 2 if self.mode == "batch" else 1
        self.evaluations = count
        self.arguments = self.new_arguments(uncond or {}, kwargs or {})

    def new_arguments(self, uncond: Mapping[str, object], kwargs: dict[str, object]) -> tuple[dict[str, object], ...]:
        """`arguments` for other keyword arguments. Raises ValueError naming one that cannot be batched."""
        other = {**kwargs, **uncond}
        if self.mode == "plain":
            return (kwargs,)
        if self.mode in ("calls", "ranks"):
            return other, kwargs
        return (joined([other, kwargs], self._shape[0]),)

    def evaluator(self, run: object = None) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
        """The function (model_input, t) -> (m, m_uncond), each [B, ...]; m_uncond is None without guidance.

        It raises TypeError or ValueError if the model does not return a tensor of x's shape.
        """
        model, shape, first, last = self.model, self._shape, self.arguments[0], self.arguments[-1]
        batch = shape[0]
        doubled = (2 * batch, *shape[1:])

        def plain(x: Tensor, t: Tensor) -> tuple[Tensor, None]:
            m = model(x, t, **first)
            return (m if type(m) is Tensor and m.shape == shape else checked_output(m, shape)), None

        def twice(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            # The unconditional output is kept while the model runs again: a model may reuse its output buffer.
            m_uncond = checked_output(model(x, t, **first), shape).clone()
            return checked_output(model(x, t, **last), shape), m_uncond

        def together(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            both = checked_output(model(x, t, **first), doubled)
            return both[batch:], both[:batch]

        def apart(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            assert self.apart is not None
            found = self.apart.outputs(
                (1, 0), lambda call: checked_output(model(x, t, **(first if call else last)), shape), shape, x.device
            )
            return found[0], found[1]

        evaluate = {"plain": plain, "calls": twice, "batch": together, "ranks": apart}[self.mode]
        return evaluate if self.see is None else self._seen(evaluate, self.see)

    def asker(self, run: object = None) -> Asker:
        """The same function as a generator that yields the calls and is sent the model's outputs.

        Processes that make the calls apart make them still.
        """
        shape, batch, evaluate = self._shape, self._shape[0], self.evaluator(run)
        size = (self.copies * batch, *shape[1:])

        def ask(x: Tensor, t: Tensor) -> Asking:
            if self.apart is not None:
                return evaluate(x, t)
            *earlier, last = self.arguments
            m_uncond = None
            for given in earlier:
                m_uncond = checked_output((yield Ask(x, t, given)), size).clone()
            m = checked_output((yield Ask(x, t, last)), size)
            if self.copies > 1:
                m, m_uncond = m[batch:], m[:batch]
            if self.see is not None:
                self.see({0: m} if m_uncond is None else {0: m, 1: m_uncond}, self._scale)
            return m, m_uncond

        return ask

    @property
    def _scale(self) -> float | Tensor:
        return 1.0 if self.guidance is None else self.guidance

    def _seen(self, evaluate: Callable, see: See) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
        """The evaluator that shows its outputs."""

        def seen(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            m, m_uncond = evaluate(x, t)
            see({0: m} if m_uncond is None else {0: m, 1: m_uncond}, self._scale)
            return m, m_uncond

        return seen


def joined(arguments: Sequence[Mapping[str, object]], batch: int) -> dict[str, object]:
    """The keyword arguments of several evaluations, the conditional one last, for one call on all their inputs.

    Tensors with the batch first are put one after the other; anything else must be the same in all.
    Raises ValueError naming the argument.
    """
    names = dict.fromkeys(name for given in arguments for name in given)
    return {name: _joined(name, [given.get(name) for given in arguments], batch) for name in names}


def _joined(name: str, values: Sequence[object], batch: int) -> object:
    last = values[-1]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if isinstance(last, Tensor) and len(tensors) == len(values) and last.ndim and last.shape[0] == batch:
        return torch.cat([value.expand(last.shape) for value in tensors])
    if all(value is last or (not tensors and value == last) for value in values):
        return last
    raise ValueError(
        f"uncond: {name} differs between the evaluations and is not a pair of tensors with the batch of {batch}"
        " first; use guidance_mode='calls'"
    )


def checked_output(m: object, shape: tuple[int, ...]) -> Tensor:
    """The tensor that the model returned: as it is, in a tuple of one, or as an object's `sample`, as in diffusers."""
    if not isinstance(m, Tensor):
        m = _unwrapped(m)
    if getattr(m, "placements", None) is not None:
        raise TypeError("model: expected it to return a plain torch.Tensor, got a DTensor; return its to_local()")
    if m.shape != shape:
        raise ValueError(f"model: expected an output of shape {shape}, got {tuple(m.shape)}{_remedy(m, shape)}")
    return m


def _unwrapped(m: object) -> Tensor:
    inner = m[0] if isinstance(m, tuple) and len(m) == 1 else getattr(m, "sample", None)
    if isinstance(inner, Tensor):
        return inner
    found = f"a tuple of {len(m)}" if isinstance(m, tuple) else type(m).__name__
    raise TypeError(
        f"model: expected it to return a torch.Tensor, or one as `.sample` or alone in a tuple, got {found}; pass a"
        " function that returns the prediction alone, such as lambda x, t, **kwargs: model(x, t, **kwargs)[0]"
    )


def _remedy(m: Tensor, shape: tuple[int, ...]) -> str:
    if m.ndim and len(m) * 2 == shape[0]:
        return "; guidance in one batch needs an output for both halves"
    if len(shape) > 1 and m.shape == (shape[0], 2 * shape[1], *shape[2:]):
        # Nothing says which half is the prediction; a wrong width would look the same.
        return (
            "; if the second half of the channels is a learned variance, which no plan uses, pass"
            f" lambda x, t, **kwargs: model(x, t, **kwargs)[:, :{shape[1]}]"
        )
    return ""

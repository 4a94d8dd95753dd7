"""`fit` and `information_curve`: what they are asked for, and the checks of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..build import plan as plan_of
from ..calls import Time
from ..token_plan import Plan
from .curve import Curve
from .limits import LIMITED, best_limits
from .teacher import MOST_ORDERS, Teacher
from .texts import PLAIN, knot_sizes, length_of, make_teacher

SIZED = ("random", "confidence", "margin", "entropy")
FITTED = (*SIZED, *LIMITED)


@dataclass(frozen=True)
class Trial:
    """A plan and what it came to on the held-out texts.

    name: such as "random, cosine". nll: the mean of -ln q(text) in nats; error: its standard error. steps: the model's
    calls for a block, in the mean.
    """

    name: str
    plan: Plan
    nll: float
    error: float
    steps: float

    def __str__(self) -> str:
        return f"{self.name:24s} {self.steps:7.2f} {self.nll:10.4f} {self.error:8.4f}"


def information_curve(
    model: Callable,
    texts: Tensor,
    mask_id: int,
    *,
    calls: int = 256,
    batch: int = 16,
    block: int | None = None,
    open: Tensor | None = None,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | str | None = None,
    guidance_mode: str = "batch",
    exclude: Sequence[int] = (),
    time: Time = None,
    shift: bool = False,
    block_start: int = 0,
    see_ahead: bool = True,
    seed: int = 0,
    **kwargs: object,
) -> Curve:
    """h(j) = E[-ln p(x_i | j tokens at random)], the mean over texts, random choices of j and the other tokens i.

    Each text is uncovered in an order of its own, a few tokens at a time where there are more of them than calls.
    Arguments, errors: as for `fit`. Of blocks the curve is the mean over them, each after those before it.

    >>> model = lambda tokens: torch.zeros(*tokens.shape, 10)
    >>> curve = fd.tokens.information_curve(model, torch.randint(10, (4, 8)), 10, calls=8)
    >>> curve.values.round(3)[:2]
    array([2.303, 2.303])
    """
    request = PLAIN._replace(
        guidance=guidance, uncond=uncond, guidance_mode=guidance_mode, exclude=exclude, time=time, shift=shift,
        block_start=block_start, see_ahead=see_ahead,
    )  # fmt: skip
    return _curve(make_teacher(model, texts, mask_id, calls, batch, block, open, request, seed, kwargs), calls, block)


def fit(
    model: Callable,
    texts: Tensor,
    steps: int,
    mask_id: int,
    *,
    rules: str | Sequence[str] = "random",
    calls: int = 256,
    batch: int = 16,
    held_out: float = 0.25,
    block: int | None = None,
    open: Tensor | None = None,
    guidance: float | Tensor | None = None,
    uncond: Mapping[str, object] | str | None = None,
    guidance_mode: str = "batch",
    exclude: Sequence[int] = (),
    time: Time = None,
    shift: bool = False,
    block_start: int = 0,
    see_ahead: bool = True,
    seed: int = 0,
    report: Callable[[Trial], object] | None = None,
    **kwargs: object,
) -> Plan:
    """The plan of `steps` model calls under which texts are most probable: the sampler closest to their law.

    The law of a masked model that draws one token a call is exact, if its conditionals are. Tokens of one call are
    drawn apart from each other, and what they share is lost: for random order with k_n tokens at step n, in the mean

        KL = sum_n [ k_n h(a_n) - sum_{j = a_n}^{a_n + k_n - 1} h(j) ],   a_n = k_1 + .. + k_{n-1}

    with one curve h (`information_curve`), measured by calls on texts with masks. Dynamic programming finds the best
    k_n (arXiv:2510.25544, arXiv:2511.04647). Rules with a limit have it moved, step by step, until they make `steps`
    calls in the mean. All plans are compared with the sizes "uniform" and "cosine" on texts that they were not fitted
    to, by -ln q(text), q the sampler's law at temperature 1, and the best one is returned.

    model, mask_id, guidance, uncond, guidance_mode, exclude, time, shift, block_start, see_ahead, kwargs: as for
        `sample`. Tensors whose first dimension is N are split with the texts.
    texts: [N, ...] int64, N >= 2: a few dozen. Where they hold masks, these are first filled by the model in random
        order: `torch.full((64, length), mask_id)` are the model's own texts, and prompts stay.
    steps: of the plan, or of each block. From 1 to the number of tokens.
    rules: which to fit: "random", "entropy", "margin", "entropy_bound", whose q is known; or "confidence", "threshold"
        and "factor", which prefer probable draws: -ln q is then that of drawing again where they would commit, and says
        nothing of that bias.
    calls: about how many model calls the curve may take. batch: texts a call.
    held_out: the share of the texts that plans are compared on, in (0, 1).
    block: the length of blocks that are made one after the other.
    open: [N, ...] bool, where tokens are generated; everywhere, or where the masks are, if not given.
    seed: of the orders and draws. report: called with every `Trial` on the held-out texts.
    Raises TypeError or ValueError naming the argument.

    >>> model = lambda tokens: torch.zeros(*tokens.shape, 10)
    >>> fd.tokens.fit(model, torch.randint(10, (8, 16)), 4, 10, calls=32).steps
    4
    """
    names = _names(rules)
    request = PLAIN._replace(
        guidance=guidance, uncond=uncond, guidance_mode=guidance_mode, exclude=exclude, time=time, shift=shift,
        block_start=block_start, see_ahead=see_ahead,
    )  # fmt: skip
    if isinstance(held_out, bool) or not isinstance(held_out, (int, float)) or not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share in (0, 1), got {held_out!r}")
    teacher = make_teacher(model, texts, mask_id, calls, batch, block, open, request, seed, kwargs)
    if len(texts) < 2:
        raise ValueError(f"texts: expected at least 2, one of them held out, got {len(texts)}")
    _check_steps(steps, length_of(teacher.open, block))
    judged = min(max(round(held_out * len(texts)), 1), len(texts) - 1)
    seen, unseen = teacher.part(slice(judged, None)), teacher.part(slice(judged))
    best: Trial | None = None
    orders = _orders(unseen, steps, calls // 4, block)
    for name, plan in _candidates(seen, names, steps, calls, block):
        trial = judge(unseen, name, plan, orders)
        if report is not None:
            report(trial)
        if best is None or trial.nll < best.nll:
            best = trial
    if best is None:
        raise ValueError(f"rules: expected one that can end after {steps} steps, got {', '.join(names)}")
    return best.plan


def judge(teacher: Teacher, name: str, plan: Plan, orders: int) -> Trial:
    """The plan on the teacher's texts."""
    lesson = teacher.lesson(plan, orders)
    error = float(lesson.nll.std()) / len(lesson.nll) ** 0.5 if len(lesson.nll) > 1 else float("nan")
    return Trial(name, plan, float(lesson.nll.mean()), error, lesson.steps)


def _candidates(
    teacher: Teacher, names: Sequence[str], steps: int, calls: int, block: int | None
) -> Iterator[tuple[str, Plan]]:
    sizes: dict[str, Any] = {"uniform": "uniform", "cosine": "cosine"}
    if any(name in SIZED for name in names):
        sizes["fitted"] = _curve(teacher, calls, block).best(steps)
    for name in names:
        if name in LIMITED:
            plan = best_limits(teacher, name, steps, block)
            if plan is not None:
                yield f"{name}, fitted", plan
        else:
            for kind, numbers in sizes.items():
                yield f"{name}, {kind}", plan_of(name, steps, sizes=numbers, block=block)


def _curve(teacher: Teacher, calls: int, block: int | None) -> Curve:
    sizes = knot_sizes(length_of(teacher.open, block), max(calls // _batches(teacher, block), 2))
    return teacher.curve(sizes, block, _orders(teacher, len(sizes), calls, block))


def _orders(teacher: Teacher, steps: int, calls: int, block: int | None) -> int:
    """In how many orders each text is taken, for so many calls in all."""
    return min(max(calls // (_batches(teacher, block) * steps), 1), MOST_ORDERS)


def _batches(teacher: Teacher, block: int | None) -> int:
    """Calls of one step for all texts."""
    blocks = -(-teacher.open[0].numel() // block) if block else 1
    return -(-len(teacher.texts) // teacher.batch) * blocks


def _check_steps(steps: int, length: int) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= length:
        raise ValueError(f"steps: expected a whole number from 1 to the {length} tokens, got {steps!r}")


def _names(rules: str | Sequence[str]) -> tuple[str, ...]:
    names = (rules,) if isinstance(rules, str) else tuple(rules)
    for name in names:
        if name not in FITTED:
            raise ValueError(f"rules: expected names among {', '.join(FITTED)}, got {name!r}")
    if not names:
        raise ValueError(f"rules: expected at least one of {', '.join(FITTED)}, got none")
    return names

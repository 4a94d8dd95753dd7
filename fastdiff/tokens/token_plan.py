"""A plan: the rule, how many tokens a step, and in which blocks."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import files
from .rules.base import Rule
from .rules.catalogue import RULES

VERSION = 1
FIELDS = ("fastdiff_token_plan", "rule", "sizes", "block")


@dataclass(frozen=True)
class Plan:
    """What `sample` does: made by `plan`, or read from a file.

    rule: which tokens a step changes. sizes: one whole number a step, in proportion to which a window's masks are
    committed: of n masks round(n (s_1 + .. + s_i) / sum s) stand after step i, exactly the sizes where they add up to
    n. For the rules of a process in time the same shares are its alpha. None, for the rules that end when all is done:
    at least one a step. block: the length of the blocks that are made one after the other, None for all at once.
    Raises TypeError or ValueError naming the field.
    """

    rule: Rule
    sizes: tuple[int, ...] | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            raise TypeError(f"rule: expected one of fastdiff.tokens' rules, got {type(self.rule).__name__}")
        if self.sizes is None and not self.rule.adaptive:
            raise ValueError(f"sizes: expected one a step, because the rule {self.rule.name} does not say how many")
        if self.sizes is not None and not self.rule.sized:
            raise ValueError(f"sizes: expected none, because the rule {self.rule.name} commits one token a step")
        if self.sizes is not None:
            _check_sizes(self.sizes)
        if self.block is not None and not (_is_whole(self.block) and self.block >= 1):
            raise ValueError(f"block: expected None or a whole number >= 1, got {self.block!r}")

    @property
    def steps(self) -> int | None:
        """Steps of each block: all of them, or at most; None where only the number of masks bounds it."""
        return None if self.sizes is None else len(self.sizes)

    @property
    def reached(self) -> tuple[int, ...] | None:
        """The sums of the sizes, from 0 to all of them."""
        return None if self.sizes is None else (0, *itertools.accumulate(self.sizes))

    def to_dict(self) -> dict[str, object]:
        """What the plan's JSON file holds."""
        rule = {"name": self.rule.name, **asdict(self.rule)}  # type: ignore[call-overload]
        return {"fastdiff_token_plan": VERSION, "rule": rule, "sizes": self.sizes, "block": self.block}

    @classmethod
    def from_dict(cls, data: object) -> Plan:
        """The plan that `to_dict` described, through JSON or not. Raises ValueError naming the field."""
        if not isinstance(data, dict) or set(data) != set(FIELDS):
            raise ValueError(f"expected an object with the fields {', '.join(FIELDS)}, got {data!r:.80}")
        version = data["fastdiff_token_plan"]
        if version != VERSION:
            raise ValueError(f"fastdiff_token_plan: expected version {VERSION}, got {version!r:.80}")
        sizes = data["sizes"]
        if sizes is not None and not isinstance(sizes, (list, tuple)):
            raise ValueError(f"sizes: expected null or a list, got {sizes!r:.80}")
        return cls(_rule(data["rule"]), None if sizes is None else tuple(sizes), data["block"])

    def save(self, path: str | os.PathLike) -> None:
        """Write the plan as JSON; `Plan.load` gives back the same plan. Leaves no partial file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        files.write(Path(path), lambda partial: partial.write_text(text))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read a plan that `save` wrote. Raises ValueError naming the file and what is wrong with it."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}: not a valid plan of fastdiff.tokens: {error}") from error


def _rule(data: object) -> Rule:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or data["name"] not in RULES:
        raise ValueError(f"rule: expected an object whose name is one of {', '.join(RULES)}, got {data!r:.80}")
    kind = RULES[data["name"]]
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name != "name"
    }
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rule: {error}") from error


def _check_sizes(sizes: tuple[int, ...]) -> None:
    right = isinstance(sizes, tuple) and all(_is_whole(size) and 0 <= size < 2**31 for size in sizes)
    if not right or not sizes or not sizes[-1]:
        raise ValueError(f"sizes: expected whole numbers >= 0, the last one >= 1, got {sizes!r:.80}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

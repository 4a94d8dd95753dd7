"""What accelerate, or another call, changed, what it left, and how to take it back."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Handle:
    """The changes of one call, of `accelerate` or another. `print(handle)` says what they are, and what was left as it
    was and why; `undo()` takes them back.

    model: what to use from now on: the model that was given, or for ComfyUI a clone of the ModelPatcher. Modules keep
    their identity, parameters, buffers and hooks: a change is another class of the same object, or another value of an
    attribute. by: which function of fastdiff's it was.
    """

    def __init__(self, model: Any, by: str = "accelerate") -> None:
        self.model, self._by = model, by
        self._classes: list[tuple[Any, type, tuple[str, ...]]] = []
        self._attributes: list[tuple[Any, str, object]] = []
        self.changes: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def set_class(self, thing: Any, new: type, what: str, **added: object) -> None:
        """Make the object one of class `new`, with attributes that it did not have."""
        self._classes.append((thing, type(thing), tuple(added)))
        thing.__class__ = new
        vars(thing).update(added)
        self.changes[what] += 1

    def set_attribute(self, owner: object, name: str, value: object, what: str) -> None:
        """owner.name = value."""
        self._attributes.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)
        self.changes[what] += 1

    def has_changed(self, thing: object) -> bool:
        """Whether the object is fastdiff's, by this call or an earlier one, or calls what is."""
        parts = (thing, getattr(thing, "processor", None))
        return any(type(part).__module__.split(".")[0] == __name__.split(".")[0] for part in parts)

    def undo(self) -> None:
        """Put every class and attribute back; a second call does nothing."""
        for thing, before, added in reversed(self._classes):
            thing.__class__ = before
            for name in added:
                del vars(thing)[name]
        for owner, name, before in reversed(self._attributes):
            setattr(owner, name, before)
        self._classes, self._attributes = [], []
        self.changes.clear()
        self.left.clear()

    def __repr__(self) -> str:
        lines = [f"fastdiff.{self._by} changed", *_counted(self.changes), *([] if self.changes else ["  nothing"])]
        return "\n".join([*lines, *(["and left as it was", *_counted(self.left)] if self.left else [])])


def _counted(counter: Counter[str]) -> list[str]:
    return [f"  {count} x {what}" for what, count in counter.items()]

"""What accelerate changed, and how to take it back."""

from __future__ import annotations

from collections import Counter


class Handle:
    """The changes of one `accelerate` call. `print(handle)` says what they are; `undo()` takes them back.

    Modules keep their identity, parameters, buffers and hooks: a change is another class of the same object, or another
    value of an attribute.
    """

    def __init__(self) -> None:
        self._classes: list[tuple[object, type, tuple[str, ...]]] = []
        self._attributes: list[tuple[object, str, object]] = []
        self.changes: Counter[str] = Counter()

    def set_class(self, thing: object, new: type, what: str, **added: object) -> None:
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

    def __repr__(self) -> str:
        lines = [f"  {count} x {what}" for what, count in self.changes.items()]
        return "\n".join(["fastdiff.accelerate changed", *(lines or ["  nothing"])])

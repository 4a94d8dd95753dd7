"""Renders the package's docstrings as Markdown for the API reference.

A docstring names arguments where it explains them, `name: text.` or `first, second: text.`, at the start of a line or
after a sentence. Each such piece becomes an item of a list. Indented blocks stay as they are, `>>>` examples become
code, and what Markdown would take for markup is escaped. A function that another one made, as in
`name = make(..., "What it does.")`, has that sentence for its docstring.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import griffe


class Docstrings(griffe.Extension):
    """Rewrites every docstring once its package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        for thing in _everything(pkg):
            if thing.is_attribute and thing.docstring is None and (sentence := _sentence(thing)):
                thing.docstring = griffe.Docstring(sentence, parent=thing)
            if thing.docstring is not None:
                thing.docstring.value = to_markdown(thing.docstring.value, _names(thing))


def _everything(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if not member.is_alias:
            yield from _everything(member)


def _sentence(attribute: griffe.Attribute) -> str | None:
    """The sentence among the arguments of the call that made the attribute."""
    if not isinstance(attribute.value, griffe.ExprCall):
        return None
    call = ast.parse(str(attribute.value), mode="eval").body
    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    return next((text for text in texts if isinstance(text, str) and text.endswith(".")), None)


def _names(thing: griffe.Object) -> set[str]:
    """The arguments and attributes that its docstring may explain."""
    if thing.is_function:
        return {parameter.name.lstrip("*") for parameter in thing.parameters}
    if not thing.is_class:
        return set()
    init = thing.members.get("__init__")
    known = init is not None and not init.is_alias and init.is_function  # it may be made by another function
    own = {parameter.name for parameter in init.parameters} if known else set()
    return own | {name for name, member in thing.members.items() if not member.is_alias} | set(thing.inherited_members)


def to_markdown(text: str, names: set[str]) -> str:
    """The docstring, cleaned of its indentation, as Markdown."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_paragraph(paragraph, names) for paragraph in paragraphs)


def _paragraph(text: str, names: set[str]) -> str:
    lines = text.split("\n")
    if text.lstrip().startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if all(line.startswith("    ") for line in lines):
        return "\n".join(["```text", *(line[4:] for line in lines), "```"])
    if lines[0].startswith("|"):
        return text
    return "\n\n".join(_render(piece) for piece in _pieces(lines, names))


def _render(piece: tuple[str, str]) -> str:
    name, text = piece
    return f"- **{escaped(name)}**: {escaped(text)}" if name else escaped(text)


def _pieces(lines: list[str], names: set[str]) -> Iterator[tuple[str, str]]:
    """(names, text) of each item, ("", text) of what stands before, between and after them.

    A line that is indented less than the one before ends an item.
    """
    blocks: list[str] = []
    for i, line in enumerate(lines):
        outdented = i > 0 and lines[i - 1].startswith(" ") and not line.startswith(" ")
        if i == 0 or outdented or line.startswith("Raises ") or _label(names).match(line):
            blocks.append(line.strip())
        else:
            blocks[-1] += " " + line.strip()
    for block in blocks:
        yield from _split(block, names)


def _label(names: set[str]) -> re.Pattern[str]:
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"(?!)"
    return re.compile(rf"((?:{known})(?:, (?:{known}))*): ")


def _split(block: str, names: set[str]) -> Iterator[tuple[str, str]]:
    """The pieces of a block: a label stands at its start or after a sentence in it."""
    labels = [m for m in _label(names).finditer(block) if m.start() == 0 or block[: m.start()].endswith((". ", "; "))]
    starts = [m.start() for m in labels] + [len(block)]
    if starts[0] > 0:
        yield "", block[: starts[0]].strip()
    for label, end in zip(labels, starts[1:], strict=True):
        yield label[1], block[label.end() : end].strip()


def escaped(text: str) -> str:
    """Markdown's and HTML's characters taken literally, but for what stands in backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _literal(part) for part in parts)


def _literal(text: str) -> str:
    return re.sub(r"([*_\[\]])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")

"""A node's class as one with a schema, the newer of the two forms that ComfyUI takes."""

from __future__ import annotations

from typing import Any

from .widgets import Widget

# What ComfyUI's newer form calls differently: the functions that check inputs and tell whether they have changed.
RENAMED = {"VALIDATE_INPUTS": "validate_inputs", "IS_CHANGED": "fingerprint_inputs"}


def with_schema(name: str, title: str, node: Any) -> type:
    """The node as a subclass of ComfyUI's ComfyNode. title: as users see it."""
    from comfy_api.latest import io

    def define_schema(cls: type) -> Any:
        groups = node.INPUT_TYPES()
        inputs = [
            _input(io, key, widget, group == "optional")
            for group, of_group in groups.items()
            for key, widget in of_group.items()
        ]
        made = zip(node.RETURN_TYPES, node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True)
        outputs = [io.Custom(kind).Output(display_name=label, tooltip=tooltip) for kind, label, tooltip in made]
        return io.Schema(name, title, node.CATEGORY, inputs, outputs, description=node.DESCRIPTION)

    def execute(cls: type, **values: Any) -> Any:
        return io.NodeOutput(*getattr(node(), node.FUNCTION)(**values))

    functions = {new: getattr(node, old).__func__ for old, new in RENAMED.items() if hasattr(node, old)}
    functions |= {"define_schema": define_schema, "execute": execute}
    return type(node.__name__, (io.ComfyNode,), {key: classmethod(function) for key, function in functions.items()})


def _input(io: Any, key: str, widget: Widget, optional: bool) -> Any:
    kind, values = widget[0], widget[1] if len(widget) > 1 else {}
    given = {"optional": optional, **values}
    if isinstance(kind, list):
        return io.Combo.Input(key, options=kind, **given)
    known = {"FLOAT": io.Float, "INT": io.Int, "STRING": io.String, "BOOLEAN": io.Boolean}
    return (known[kind] if kind in known else io.Custom(kind)).Input(key, **given)

"""A stand-in for comfy_api.latest, ComfyUI's newer form of nodes, as small as can be."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest


class Socket:
    def __init__(self, io_type: object, id: str | None = None, **values: Any) -> None:
        self.io_type, self.id, self.values = io_type, id, values


def kind(io_type: str) -> types.SimpleNamespace:
    made = lambda id=None, **values: Socket(io_type, id, **values)  # noqa: E731
    return types.SimpleNamespace(Input=made, Output=made)


class Schema:
    def __init__(
        self, node_id: str, display_name: str, category: str, inputs: list, outputs: list, description: str
    ) -> None:
        named = [socket.id for socket in (*inputs, *outputs) if socket.id is not None]
        assert len(set(named)) == len(named)  # ComfyUI wants them unique among inputs and outputs
        self.node_id, self.display_name, self.category = node_id, display_name, category
        self.inputs, self.outputs, self.description = inputs, outputs, description


class NodeOutput:
    def __init__(self, *result: object) -> None:
        self.result = result


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        return cls.define_schema()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    io = types.SimpleNamespace(Custom=kind, ComfyNode=ComfyNode, NodeOutput=NodeOutput, Schema=Schema)
    io.Float, io.Int, io.String, io.Boolean = map(kind, ("FLOAT", "INT", "STRING", "BOOLEAN"))
    io.Combo = types.SimpleNamespace(Input=lambda id, options, **values: Socket(options, id, **values))
    latest = types.ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = io, object
    monkeypatch.setitem(sys.modules, "comfy_api", types.ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)

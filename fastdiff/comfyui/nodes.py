"""All nodes, in both forms that ComfyUI takes: classes by name, and the extension that `comfy_entrypoint` gives."""

from __future__ import annotations

from typing import Any

from . import guidance_nodes, plan_nodes, sampling_nodes

_NODES = {**sampling_nodes.NODES, **plan_nodes.NODES, **guidance_nodes.NODES}
NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: f"{title} (fastdiff)" for name, (_, title) in _NODES.items()}


async def comfy_entrypoint() -> Any:
    """A ComfyExtension with all nodes as ComfyNodes with schemas."""
    from comfy_api.latest import ComfyExtension

    from .schema import with_schema

    class Fastdiff(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            titles = NODE_DISPLAY_NAME_MAPPINGS
            return [with_schema(name, titles[name], node) for name, node in NODE_CLASS_MAPPINGS.items()]

    return Fastdiff()

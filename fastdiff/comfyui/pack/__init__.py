"""What ComfyUI loads from its folder of custom nodes: a link to this folder, or a copy (`fastdiff comfyui install`)."""

from fastdiff.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, comfy_entrypoint

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "comfy_entrypoint"]

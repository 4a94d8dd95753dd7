"""Workflows in ComfyUI's own executor, with tiny random networks that its own loader reads from files."""

from __future__ import annotations

import asyncio
import itertools
import os
import types
from pathlib import Path
from typing import Any

import torch
from peers import comfyui_sampling
from torch import Tensor, nn

from fastdiff.comfyui import installation

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
    "channel_mult": [1, 1], "transformer_depth": [1, 0], "transformer_depth_output": [1, 0, 0, 0],
    "transformer_depth_middle": 0, "num_heads": 8, "num_head_channels": -1, "context_dim": 768,
    "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
MMDIT = {
    "in_channels": 16, "patch_size": 2, "depth": 2, "adm_in_channels": 24, "input_size": None, "num_patches": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}},
    "pos_embed_max_size": 8, "pos_embed_scaling_factor": None,
}  # fmt: skip
LAST = ("out.2.weight", "final_layer.linear.weight")


def write_networks(folder: Path) -> None:
    """unet.safetensors, of Stable Diffusion 1.5's kind, and mmdit.safetensors, of Stable Diffusion 3's."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    made = {
        "unet": UNetModel(**UNET, operations=comfy.ops.disable_weight_init),
        "mmdit": OpenAISignatureMMDITWrapper(**MMDIT, operations=comfy.ops.disable_weight_init),
    }
    for name, network in made.items():
        save_file(_random(network), folder / f"{name}.safetensors")


def _random(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a smooth network: what it adds to x is small beside x."""
    state = network.state_dict()
    for key, value in state.items():
        spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
        spread *= 0.2 if key in LAST else 1.0
        state[key] = torch.randn(value.shape) * spread + (1.0 if value.ndim == 1 and "weight" in key else 0.0)
    return state


class Prompt:
    """CONDITIONING from a seed."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"width": ("INT", {"default": 768}), "seed": ("INT", {"default": 0})}}

    def make(self, width: int, seed: int) -> tuple[list]:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
        return ([[draw(1, 6, width), {"pooled_output": draw(1, 24)}]],)


class Keep:
    """Keeps what it is given, for the test to look at."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "keep", "test", True
    kept: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        from comfy.comfy_types import IO

        return {"required": {"value": (IO.ANY,), "name": ("STRING", {"default": "x"})}}

    def keep(self, value: object, name: str) -> dict:
        Keep.kept[name] = value
        return {"ui": {}}


class Checkpoint:
    """A MODEL from a file, and nothing for the text encoder and the decoder."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CLIP", "VAE"), "load", "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"ckpt_name": ("STRING", {})}}

    def load(self, ckpt_name: str) -> tuple:
        import comfy.sd
        import folder_paths

        path = folder_paths.get_full_path_or_raise("diffusion_models", "mmdit.safetensors")
        return comfy.sd.load_diffusion_model(path), "text encoder", "decoder"


class Text(Prompt):
    """CONDITIONING from a text's letters."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {})}}

    def make(self, clip: str, text: str) -> tuple[list]:
        return super().make(32, sum(map(ord, text)))


class Decode:
    """Latents as they are."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "decode", "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, samples: dict, vae: str) -> tuple[Tensor]:
        return (samples["samples"],)


class KeepImage(Keep):
    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"images": ("IMAGE",)}}

    def keep(self, images: Tensor) -> dict:
        return super().keep(images, "image")


class KeepText(Keep):
    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"source": ("STRING", {})}}

    def keep(self, source: str) -> dict:
        return super().keep(source, "text")


ENDS = {  # what stands in an example for the parts of a whole checkpoint, and for what shows its results
    "CheckpointLoaderSimple": Checkpoint, "CLIPTextEncode": Text, "VAEDecode": Decode, "SaveImage": KeepImage,
    "PreviewAny": KeepText,
}  # fmt: skip


class App:
    """ComfyUI's executor with its custom samplers, the node pack and the two nodes of this file.

    messages: what it told the user interface, [(event, data)]. Skips the test where there is no ComfyUI.
    """

    def __init__(self, folder: Path) -> None:
        comfyui_sampling()
        import execution
        import folder_paths
        import nodes

        self.execution, self.nodes, self.paths, self.numbers = execution, nodes, folder_paths, itertools.count()
        write_networks(folder)
        folder_paths.add_model_folder_path("diffusion_models", str(folder))
        folder_paths.models_dir = str(folder)
        root = Path(nodes.__file__).parent
        for name in ("custom_sampler", "preview_any"):
            self.load(root / "comfy_extras" / f"nodes_{name}.py")
        checkout = folder / "ComfyUI"
        checkout.mkdir()
        (checkout / "custom_nodes").mkdir()
        for name in ("nodes.py", "execution.py", "comfy"):
            (checkout / name).symlink_to(root / name)
        self.load(installation.install(checkout))
        nodes.NODE_CLASS_MAPPINGS |= {"Prompt": Prompt, "Keep": Keep}
        self.messages: list[tuple[str, dict]] = []
        server = types.SimpleNamespace(
            client_id="test",
            last_node_id=None,
            send_sync=lambda event, data, sid=None: self.messages.append((event, data)),
        )
        self.executor = execution.PromptExecutor(server)

    def load(self, path: Path) -> None:
        assert asyncio.run(self.nodes.load_custom_node(os.fspath(path)))

    def check(self, prompt: dict) -> tuple:
        """(whether ComfyUI takes it, the error, its outputs, the errors by node)."""
        return asyncio.run(self.execution.validate_prompt(f"{next(self.numbers)}", prompt, None))

    def run(self, prompt: dict) -> dict[str, Any]:
        """What the nodes Keep were given last. Raises AssertionError where ComfyUI refuses or a node fails."""
        taken, error, outputs, errors = self.check(prompt)
        assert taken, (error, errors)
        self.execute(prompt, outputs)
        assert self.executor.success, self.executor.status_messages[-1]
        return dict(Keep.kept)

    def execute(self, prompt: dict, outputs: list[str]) -> None:
        self.messages.clear()
        self.executor.execute(prompt, f"{next(self.numbers)}", {"client_id": "test"}, outputs)

    def executed(self) -> set[str]:
        """The nodes that ran in the latest run, and were not taken from the cache."""
        return {data["node"] for event, data in self.messages if event == "executing"}

"""ComfyUI's networks, tiny and with random weights, and the arguments of a call. Imported where ComfyUI is."""

from __future__ import annotations

import comfy.ops
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import WanModel
from patch_models import Model
from torch import Tensor

MAKE = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32}
FLUX = {
    "in_channels": 4, "out_channels": 4, "vec_in_dim": 12, "context_in_dim": 24, "hidden_size": 32, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 256, "qkv_bias": True,
    "guidance_embed": False,
}  # fmt: skip
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


def image(*frames: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, *frames, 12, 12), torch.rand(2)


def text() -> Tensor:
    return torch.randn(2, 5, 24)


def flux():
    return Model(Flux(patch_size=2, **FLUX, **MAKE), *image(), text(), y=torch.randn(2, 12))


def hunyuan_video():
    module = HunyuanVideo(patch_size=[1, 2, 2], byt5=False, meanflow=False, **FLUX, **MAKE)
    return Model(module, *image(2), text(), y=torch.randn(2, 12))


def sd3():
    module = MMDiT(
        input_size=None, in_channels=4, depth=2, context_size=24, adm_in_channels=12, pos_embed_max_size=16,
        num_patches=256, qk_norm="rms", **MAKE,
    )  # fmt: skip
    return Model(module, *image(), context=torch.randn(2, 5, 128), y=torch.randn(2, 12))


def wan():
    module = WanModel(
        dim=48, ffn_dim=64, freq_dim=32, text_dim=24, in_dim=4, out_dim=4, num_heads=2, num_layers=2, **MAKE
    )
    return Model(module, *image(2), text())


def qwen_image():
    module = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(8, 4, 4), **MAKE,
    )  # fmt: skip
    return Model(module, *image(1), text())


def ltx():
    module = LTXVModel(
        in_channels=4, cross_attention_dim=24, attention_head_dim=12, num_attention_heads=2, caption_channels=24,
        num_layers=2, **MAKE,
    )  # fmt: skip
    return Model(module, *image(2), text(), attention_mask=MASK)


def z_image():
    module = NextDiT(
        patch_size=2, in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=24,
        axes_dims=[8, 8, 8], axes_lens=[64, 64, 64], **MAKE,
    )  # fmt: skip
    return Model(module, *image(), text(), num_tokens=5)


def unet():
    module = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
        num_heads=2, use_spatial_transformer=True, transformer_depth=[1, 1], transformer_depth_output=[1] * 4,
        transformer_depth_middle=1, context_dim=24, use_linear_in_transformer=True, **MAKE,
    )  # fmt: skip
    return Model(module, torch.randn(2, 4, 16, 16), torch.rand(2), context=text())


def with_weights(model: Model) -> Model:
    """ComfyUI's operations leave their weights as memory had them."""
    for tensor in (*model.module.parameters(), *model.module.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.3 if tensor.ndim < 2 else 0.5 / tensor.shape[-1] ** 0.5)
    return model

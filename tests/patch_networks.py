"""diffusers' networks that `accelerate` knows by the function that asks for attention, tiny and with random weights.

Their prompts are padded, with masks, where the pipelines pad them.
"""

from __future__ import annotations

import diffusers
import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel
from patch_models import UNET, Model, pixart, stable_audio, wan

PADDED = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
TIMES = torch.tensor([30, 900])


def hunyuan_video():
    module = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(2, 7, 16), "encoder_attention_mask": PADDED}
    named = text | {"pooled_projections": torch.randn(2, 8), "guidance": torch.rand(2)}
    return Model(module, torch.randn(2, 4, 2, 6, 4), TIMES, **named)


def ltx():
    module = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=2, caption_channels=12,
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(2, 7, 12), "encoder_attention_mask": PADDED}
    return Model(module, torch.randn(2, 2 * 6 * 4, 4), timestep=TIMES, num_frames=2, height=6, width=4, **text)


def cogvideox():
    module = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=8,
        num_layers=2, sample_width=8, sample_height=8, sample_frames=8, max_text_seq_length=8,
    )  # fmt: skip
    return Model(module, torch.randn(2, 1, 4, 8, 8), torch.randn(2, 8, 8), TIMES)


def qwen_image():
    module = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(2, 7, 16), "encoder_hidden_states_mask": PADDED}
    return Model(module, torch.randn(2, 24, 16), timestep=torch.rand(2), img_shapes=[(1, 6, 4)] * 2, **text)


def z_image():
    module = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    torch.nn.init.normal_(module.x_pad_token)
    torch.nn.init.normal_(module.cap_pad_token)
    images, prompts = [torch.randn(4, 1, 12, 8), torch.randn(4, 1, 8, 8)], [torch.randn(5, 16), torch.randn(40, 16)]
    return Model(module, images, torch.tensor([0.2, 0.9]), prompts)


def sana():
    module = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=8,
        sample_size=8,
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(2, 7, 8), "encoder_attention_mask": PADDED}
    return Model(module, torch.randn(2, 4, 8, 8), timestep=TIMES, **text)


def flux2():
    module = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, timestep_guidance_channels=32, axes_dims_rope=[4, 4, 4, 4],
    )  # fmt: skip
    image = torch.cartesian_prod(torch.arange(1), torch.arange(6), torch.arange(4), torch.arange(1))
    text = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), torch.arange(7))
    named = {"img_ids": image.expand(2, -1, -1), "txt_ids": text.expand(2, -1, -1), "guidance": torch.rand(2)}
    tokens = {"encoder_hidden_states": torch.randn(2, 7, 32), "timestep": torch.rand(2)}
    return Model(module, torch.randn(2, 24, 4), **tokens, **named)


def kandinsky5():
    module = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16, out_visual_dim=4, patch_size=(1, 2, 2),
        model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6),
    )  # fmt: skip
    for parameter in module.parameters():
        if not parameter.any():  # which would leave the attentions without effect
            torch.nn.init.normal_(parameter, std=0.1)
    positions = [torch.arange(2), torch.arange(3), torch.arange(4)]
    text = {"encoder_hidden_states": torch.randn(1, 7, 16), "pooled_projections": torch.randn(1, 8)}
    named = {"visual_rope_pos": positions, "text_rope_pos": torch.arange(7)}
    return Model(module, torch.randn(1, 2, 6, 8, 4), timestep=TIMES[:1], **text, **named)


def kandinsky22():
    module = diffusers.UNet2DConditionModel(
        addition_embed_type="image", encoder_hid_dim=8, encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift", mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        **UNET | {
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        },
    )  # fmt: skip
    added = {"image_embeds": torch.randn(2, 8)}
    return Model(module, torch.randn(2, 4, 8, 8), 300, encoder_hidden_states=None, added_cond_kwargs=added)


def audioldm2():
    module = AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, sample_size=16, in_channels=4,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=((None, 8, 16),) * 2,
    )  # fmt: skip
    named = {"encoder_hidden_states_1": torch.randn(2, 7, 16), "encoder_attention_mask_1": PADDED}
    return Model(module, torch.randn(2, 4, 8, 8), 300, torch.randn(2, 5, 8), **named)


NETWORKS = {
    "Wan": wan,
    "Stable Audio": stable_audio,
    "HunyuanVideo": hunyuan_video,
    "LTX-Video": ltx,
    "CogVideoX": cogvideox,
    "Qwen-Image": qwen_image,
    "Z-Image": z_image,
    "SANA": sana,
    "FLUX.2": flux2,
    "PixArt": lambda: pixart(torch.tensor([[1.0] * 9, [1.0] * 4 + [0.0] * 5])),
    "Kandinsky 5": kandinsky5,
    "Kandinsky 2.2": kandinsky22,
    "AudioLDM 2": audioldm2,
}

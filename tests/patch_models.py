"""Small models of the kinds that fastdiff.accelerate knows, and one that it does not, with the arguments of a call."""

from __future__ import annotations

import itertools

import diffusers
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from ldm_blocks import LDM, Autoencoder
from torch import Tensor, nn

UNET = {
    "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 4, "cross_attention_dim": 24,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


class Model:
    """A module and the arguments of a call."""

    def __init__(self, module, *arguments, **named):
        self.module, self.arguments, self.named = module.eval(), arguments, named

    @torch.no_grad()
    def __call__(self):
        out = self.module(*self.arguments, **self.named)
        out = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
        return out


def sd15(**options):
    unet = diffusers.UNet2DConditionModel(**UNET | options)
    return Model(unet, torch.randn(2, 4, 8, 8), torch.tensor([7, 400]), torch.randn(2, 9, 24))


def sdxl():
    xl = {
        "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    unet = diffusers.UNet2DConditionModel(**UNET | xl)
    added = {"text_embeds": torch.randn(2, 16), "time_ids": torch.rand(2, 6)}
    return Model(unet, torch.randn(2, 4, 8, 8), 300, torch.randn(2, 9, 24), added_cond_kwargs=added)


def unconditional(**options):
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    return Model(diffusers.UNet2DModel(**sizes, **blocks, **options), torch.randn(2, 3, 8, 8), 30)


def vae():
    module = diffusers.AutoencoderKL(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return Model(module, torch.randn(2, 3, 16, 16))


def published_vae_decoder():
    """The middle of the published decoder, whose attention has one head of size 512."""
    module = diffusers.models.autoencoders.vae.Decoder(
        in_channels=4, out_channels=3, up_block_types=("UpDecoderBlock2D",), block_out_channels=(512,),
        layers_per_block=1, norm_num_groups=32,
    )  # fmt: skip
    return Model(module, torch.randn(1, 4, 8, 8))


def sd3():
    module = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16, pooled_projection_dim=12,
        qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    return Model(module, torch.randn(2, 4, 16, 16), torch.randn(2, 5, 24), torch.randn(2, 12), torch.tensor([3.0, 9.0]))


def flux():
    module = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=12, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return Model(
        module, torch.randn(2, 64, 4), encoder_hidden_states=torch.randn(2, 5, 24), timestep=torch.tensor([0.3, 0.9]),
        pooled_projections=torch.randn(2, 12), img_ids=torch.rand(64, 3) * 8, txt_ids=torch.zeros(5, 3),
    )  # fmt: skip


def wan(image=False):
    added = {"image_dim": 20, "added_kv_proj_dim": 24} if image else {}
    module = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32, **added,
    )  # fmt: skip
    text = torch.randn(2, 512 if image else 9, 16)
    named = {"encoder_hidden_states_image": torch.randn(2, 7, 20)} if image else {}
    return Model(module, torch.randn(2, 4, 3, 8, 6), torch.tensor([30, 900]), text, **named)


def stable_audio():
    module = diffusers.StableAudioDiTModel(
        sample_size=20, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        num_key_value_attention_heads=2, cross_attention_dim=24, cross_attention_input_dim=24, time_proj_dim=8,
        global_states_input_dim=10,
    )  # fmt: skip
    rotary = get_1d_rotary_pos_embed(8, 21, use_real=True, repeat_interleave_real=False)
    return Model(
        module, torch.randn(2, 3, 20), torch.tensor([0.3, 0.9]), torch.randn(2, 9, 24),
        global_hidden_states=torch.randn(2, 1, 10), rotary_embedding=rotary,
    )  # fmt: skip


def dit():
    module = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        norm_num_groups=4, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return Model(module, torch.randn(2, 4, 8, 8), torch.tensor([3, 9]), torch.tensor([0, 5]))


def pixart(mask=None):
    module = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    added = {"resolution": None, "aspect_ratio": None}
    return Model(
        module, torch.randn(2, 4, 8, 8), encoder_hidden_states=torch.randn(2, 9, 12), timestep=torch.tensor([3, 9]),
        added_cond_kwargs=added, encoder_attention_mask=mask,
    )  # fmt: skip


def compvis(mask=None):
    return Model(LDM(), torch.randn(2, 32, 8, 8), torch.randn(2, 20), torch.randn(2, 9, 24), mask)


def autoencoder():
    return Model(Autoencoder(), torch.randn(2, 8, 6, 7), torch.randn(2, 20))


class Plain(nn.Module):
    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(6, 32, 1), nn.GroupNorm(4, 32), nn.SiLU(), nn.GroupNorm(8, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.weighted = nn.MultiheadAttention(32, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).transpose(1, 2)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        out, weights = self.weighted(h, h[:, :5], h[:, :5])
        return out + weights.sum()


def plain(batch_first=True):
    return Model(Plain(batch_first), torch.randn(3, 6, 40) if batch_first else torch.randn(3, 6, 3))


MODELS = {
    "SD 1.5 U-Net": sd15,
    "SD U-Net with scale and shift": lambda: sd15(resnet_time_scale_shift="scale_shift"),
    "SD U-Net without the embedding's SiLU": lambda: sd15(resnet_skip_time_act=True, resnet_out_scale_factor=1.4),
    "SD U-Net with ReLU": lambda: sd15(act_fn="relu"),
    "SDXL U-Net": sdxl,
    "unconditional U-Net": unconditional,
    "U-Net that resamples in its blocks": lambda: unconditional(
        downsample_type="resnet", upsample_type="resnet", mid_block_scale_factor=2.0
    ),
    "VAE": vae,
    "the published VAE's decoder": published_vae_decoder,
    "DiT": dit,
    "PixArt": pixart,
    "PixArt with masked prompts": lambda: pixart(torch.tensor([[1.0] * 9, [1.0] * 4 + [0.0] * 5])),
    "SD3": sd3,
    "Flux": flux,
    "Wan": wan,
    "Wan with an image": lambda: wan(image=True),
    "Stable Audio": stable_audio,
    "LDM": compvis,
    "LDM with masked prompts": lambda: compvis(torch.tensor([[True] * 9, [True] * 4 + [False] * 5])),
    "LDM's autoencoder": autoencoder,
    "torch.nn": plain,
    "torch.nn, sequence first": lambda: plain(False),
}


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def state_of(module):
    """Every module with its class and what hangs on it, by identity."""
    found = []
    for name, m in module.named_modules():
        tensors = [(k, id(t)) for k, t in itertools.chain(m._parameters.items(), m._buffers.items())]
        others = {k: id(v) for k, v in vars(m).items() if k not in ("_parameters", "_buffers", "_modules")}
        found.append((name, id(m), type(m), tensors, others))
    return found

"""Identity attention (PAG) and blurred queries (SEG): the papers' formulas written out, in real networks in float64."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import PAGJointAttnProcessor2_0
from patch_models import Model, close, flux, pixart, sd3, sd15, sdxl, unconditional, wan
from torch import Tensor, nn
from watched_attention import attention_in, double, output_of, perturbed, softmax_attention, with_latent

import fastdiff as fd
from fastdiff.demo import load_model
from fastdiff.patch.perturb.grid import blurred

TEXT = 5  # tokens of the text of sd3() and flux()


def every_attention(name, module):
    return hasattr(module, "processor")


class Values:
    """Self-attention with the identity in place of softmax(q k^T)."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        tokens = hidden_states
        if hidden_states.ndim == 4:
            tokens = attn.group_norm(hidden_states.flatten(2)).mT
        out = attn.to_out[0](attn.to_v(tokens))
        if hidden_states.ndim == 4:
            out = out.mT.reshape(hidden_states.shape) + hidden_states
        return out / attn.rescale_output_factor


def test_in_a_unet_self_attention_is_its_projected_values_and_the_rest_is_untouched():
    model = double(sd15())
    ours = perturbed(model, fd.perturb.identity_attention)
    model.module.mid_block.attentions[0].transformer_blocks[0].attn1.processor = Values()
    close(ours, output_of(model), 1e-12)


def test_the_attention_of_a_feature_map_keeps_its_norm_residual_and_scale():
    model = double(unconditional(mid_block_scale_factor=2.0))
    ours = perturbed(model, fd.perturb.identity_attention)
    model.module.mid_block.attentions[0].processor = Values()
    close(ours, output_of(model), 1e-12)


def sees_of_the_image_itself(q: Tensor, image: slice) -> Tensor:
    """[N, N]: whether the one token attends to the other."""
    seen = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool)
    seen[image, image] = torch.eye(image.stop - image.start, dtype=torch.bool)
    return seen


@pytest.mark.parametrize(("make", "image"), [(sd3, slice(0, 64)), (flux, slice(TEXT, TEXT + 64))])
def test_joint_attention_keeps_of_the_image_each_token_itself(make, image):
    model = double(make())
    ours = perturbed(model, fd.perturb.identity_attention, every_attention)

    def attend(q, k, v, mask):
        return v if q.shape[-2] == 64 else softmax_attention(q, k, v, sees_of_the_image_itself(q, image))

    with attention_in([m for n, m in model.module.named_modules() if every_attention(n, m)], attend):
        close(ours, output_of(model), 1e-12)
    assert float((ours - output_of(model)).abs().max()) > 1e-6


def test_it_is_what_diffusers_sd3_pipeline_for_pag_computes():
    module = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16, pooled_projection_dim=12,
    )  # fmt: skip
    given = torch.randn(2, 4, 16, 8), torch.randn(2, TEXT, 24), torch.randn(2, 12), torch.tensor([3.0, 9.0])
    ours = perturbed(Model(module, *given), fd.perturb.identity_attention, 1)
    module.transformer_blocks[1].attn.processor = PAGJointAttnProcessor2_0()
    close(ours, Model(module, *(torch.cat([a, a]) for a in given))()[2:])


class Joint(nn.Module):
    """HunyuanVideo's kind: image tokens first, some of the text's hidden from all."""

    class HunyuanVideoAttnProcessor2_0:
        pass

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.processor, self.projected = self.HunyuanVideoAttnProcessor2_0(), (q, k, v, mask)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.projected)


@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("rows", [1, 11])
def test_what_is_masked_stays_masked(boolean, rows):
    q, k, v = torch.randn(3, 2, 4, 11, 8, dtype=torch.float64)
    seen = torch.rand(2, 1, rows, 11) < 0.5
    seen[..., :8] = True
    mask = seen if boolean else torch.zeros(seen.shape, dtype=torch.float64).masked_fill_(~seen, -math.inf)
    module = nn.Sequential(Joint(q, k, v, mask))
    image, text = torch.zeros(2, 7, 32), torch.zeros(2, 4, 32)
    out = []
    call = fd.perturb.identity_attention(lambda x, t: out.append(module[0](x, text)) or x, "0", network=module)
    call(image, 0.5)
    close(out[0], softmax_attention(q, k, v, sees_of_the_image_itself(q, slice(0, 7)) & seen), 1e-12)


def by_convolution(q: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """[..., F h w, D] blurred as the paper's code does: 6 sigma taps, at most the grid, reflected at the edges."""
    maps = q.unflatten(-2, (-1, *grid)).movedim(-1, -3)
    flat = maps.reshape(-1, 1, *grid)
    for axis, n in enumerate(grid):
        taps = min(math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2, n - (n % 2 - 1))
        kernel = torch.exp(-0.5 * (torch.linspace(-(taps - 1) / 2, (taps - 1) / 2, taps, dtype=q.dtype) / sigma) ** 2)
        pad = (0, 0, taps // 2, taps // 2) if axis == 0 else (taps // 2, taps // 2, 0, 0)
        kernel = (kernel / kernel.sum()).view((1, 1, taps, 1) if axis == 0 else (1, 1, 1, taps))
        flat = F.conv2d(F.pad(flat, pad, mode="reflect"), kernel)
    return flat.reshape(maps.shape).movedim(-3, -1).reshape(q.shape)


def mean_of_frames(q: Tensor, grid: tuple[int, int]) -> Tensor:
    frames = q.unflatten(-2, (-1, grid[0] * grid[1]))
    return frames.mean(-2, keepdim=True).expand(frames.shape).flatten(-3, -2)


@pytest.mark.parametrize("grid", [(8, 8), (4, 6), (2, 1), (1, 5), (7, 3)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7, 40.0])
def test_blur_is_a_convolution_with_reflected_edges(grid, sigma):
    q = torch.randn(2, 3, 2 * grid[0] * grid[1], 5, dtype=torch.float64)
    close(blurred(q, grid, sigma), by_convolution(q, grid, sigma), 1e-13)


@pytest.mark.parametrize("sigma", [1.3, math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_blur_in_half_precision_is_the_rounded_blur(dtype, sigma):
    q = (60000 * torch.rand(1, 2, 24, 4)).to(dtype)
    exact, ours = blurred(q.double(), (6, 4), sigma), blurred(q, (6, 4), sigma)
    assert ours.dtype == dtype
    assert float((ours.double() - exact).abs().max() / exact.abs().max()) < torch.finfo(dtype).eps


def flux_grid(rows: int = 4, columns: int = 6) -> Model:
    model = flux()
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)))
    return Model(model.module, torch.randn(2, rows * columns, 4), **{**model.named, "img_ids": places})


def ltx_grid() -> Model:
    module = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=2, caption_channels=12,
    )  # fmt: skip
    sizes = {"num_frames": 2, "height": 3, "width": 4, "encoder_attention_mask": torch.ones(2, 9)}
    text = torch.randn(2, 9, 12)
    return Model(module, torch.randn(2, 24, 4), text, torch.tensor([30, 900]), **sizes)


def hunyuan_video() -> Model:
    module = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    masks = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    t = torch.tensor([30, 900])
    return Model(module, torch.randn(2, 4, 2, 3, 5), t, torch.randn(2, 6, 16), masks, torch.randn(2, 8))


GRIDS = {
    "SD 1.5, not square": (lambda: with_latent(sd15(), 12, 4), "mid_block", (6, 2)),
    "SD 1.5, two rows of one": (lambda: with_latent(sd15(), 4, 2), "mid_block", (2, 1)),
    "SD 1.5, at the top": (lambda: with_latent(sd15(), 10, 6), "down_blocks.0", (10, 6)),
    "SDXL": (lambda: with_latent(sdxl(), 6, 10), "mid_block", (3, 5)),
    "unconditional U-Net": (lambda: with_latent(unconditional(), 6, 10), "mid_block", (3, 5)),
    "PixArt": (lambda: with_latent(pixart(), 6, 12), 1, (3, 6)),
    "SD3": (lambda: with_latent(sd3(), 8, 16), [0, 2], (4, 8)),
    "Flux": (flux_grid, [1, 2], (4, 6)),
    "LTX": (ltx_grid, 0, (3, 4)),
    "Wan": (wan, 1, (4, 3)),
    "HunyuanVideo": (hunyuan_video, "transformer_blocks", (3, 5)),
    "HunyuanVideo, one stream": (hunyuan_video, "single_transformer_blocks", (3, 5)),
}


@pytest.mark.parametrize("sigma", [0.8, math.inf])
@pytest.mark.parametrize("name", GRIDS)
def test_queries_are_blurred_over_rows_and_columns_and_infinitely_to_their_mean(name, sigma):
    make, layers, grid = GRIDS[name]
    model = double(make())
    call = fd.perturb.blurred_queries(model.module, layers, sigma)
    ours = perturbed(model, fd.perturb.blurred_queries, layers, sigma)
    image = model.arguments[0].shape[2:].numel() if model.arguments[0].ndim > 3 else model.arguments[0].shape[1]

    def attend(q, k, v, mask):
        if q.shape[-2] != k.shape[-2]:
            return softmax_attention(q, k, v, mask)  # to a text
        count = q.shape[-2]
        frames = (min(count, image) // (grid[0] * grid[1])) * grid[0] * grid[1]
        begin = TEXT if name == "Flux" else 0
        part = q[..., begin : begin + frames, :]
        part = mean_of_frames(part, grid) if sigma == math.inf else by_convolution(part, grid, sigma)
        return softmax_attention(torch.cat([q[..., :begin, :], part, q[..., begin + frames :, :]], -2), k, v, mask)

    names = dict(model.module.named_modules())
    plain = output_of(model)
    with attention_in([names[n] for n in call.layers], attend):
        close(ours, output_of(model), 1e-12)
    assert float((ours - plain).abs().max()) > 1e-9 * float(plain.abs().max())  # it has an effect


def test_infinite_sigma_is_the_default_and_large_ones_are_not_infinite():
    model = double(with_latent(sd15(), 12, 8))
    mean = perturbed(model, fd.perturb.blurred_queries, "mid_block", math.inf)
    assert torch.equal(perturbed(model, fd.perturb.blurred_queries), mean)
    assert not torch.equal(perturbed(model, fd.perturb.blurred_queries, "mid_block", 1e4), mean)


def test_a_grid_can_be_given_and_must_fit():
    model = double(flux())
    model.named["img_ids"] = torch.zeros(64, 3)  # all in one place
    ours = perturbed(model, fd.perturb.blurred_queries, 0, 0.7, grid=(4, 16))
    assert not torch.equal(ours, perturbed(model, fd.perturb.blurred_queries, 0, 0.7, grid=(16, 4)))
    with pytest.raises(RuntimeError, match=r"how 64 tokens stand; give grid="):
        perturbed(model, fd.perturb.blurred_queries, 0)
    with pytest.raises(RuntimeError, match=r"5 rows of 7 do not say how 64 tokens"):
        perturbed(model, fd.perturb.blurred_queries, 0, grid=(5, 7))
    for grid in ((0, 4), (4,), (2.0, 2)):
        with pytest.raises(ValueError, match="grid: expected"):
            perturbed(model, fd.perturb.blurred_queries, 0, grid=grid)
    for sigma in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma: expected"):
            perturbed(model, fd.perturb.blurred_queries, 0, sigma)


@pytest.mark.parametrize("perturbation", [fd.perturb.identity_attention, fd.perturb.blurred_queries])
def test_a_network_that_is_none_of_diffusers(perturbation):
    model = load_model()
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([5.0, 300.0, 990.0]), torch.tensor([1, 2, 3])
    call = perturbation(model, "middle")
    assert call.layers == ("middle.0.attention",)
    with torch.no_grad():
        ours = call(x, t, y=y)
        attention = model.middle[0].attention

        def literal(x):
            q, k, v = attention.qkv(attention.norm(x).flatten(2).mT).chunk(3, dim=-1)
            q, k, v = (a.unflatten(2, (attention.heads, -1)).transpose(1, 2) for a in (q, k, v))
            mean = softmax_attention(q.mean(-2, keepdim=True).expand(q.shape), k, v)
            out = v if perturbation is fd.perturb.identity_attention else mean
            return x + attention.out(out.transpose(1, 2).flatten(2)).mT.reshape(x.shape)

        attention.forward = literal
        close(ours, model(x, t, y=y))

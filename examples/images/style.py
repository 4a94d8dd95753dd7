"""A photograph in the style of another: its colours and textures are those of a reference, its shapes its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import fastdiff as fd
from fastdiff import demo

from . import peers

HEAD = ("method", "passes", "style", "content")
NOISE = 0.1  # of the style's numbers, in their standard deviations among photographs
START = 1.0  # sigma: shapes of the image stay, details go


class Style:
    """Each of several photographs with the style of one, `repeats` times."""

    def __init__(self, repeats: int, reference: int = 9) -> None:
        self.net = demo.network("colour")
        kept = torch.arange(len(self.net.examples)) != reference
        self.reference = self.net.examples[reference : reference + 1]
        self.image = self.net.examples[kept][::4].repeat(repeats, 1, 1, 1)
        self.noise = fd.noise.randn(self.image.shape, range(len(self.image)))
        known = statistics(self.net.examples)
        self.mean, self.scale = known.mean(0), known.std(0)

    def numbers(self, x: Tensor) -> Tensor:
        """[B, 48] in standard deviations among photographs."""
        return (statistics(x) - self.mean) / self.scale

    def misfit(self, x: Tensor) -> Tensor:
        """[B] the mean square over the numbers of the difference from the reference's."""
        return (self.numbers(x) - self.numbers(self.reference)).square().mean(1)

    def ours(self, correction: str, steps: int) -> Tensor:
        schedule = fd.Schedule.edm(0.002, START)
        plan = fd.plan("dpm_solver_2m", schedule, steps, grid="karras", prediction="sample")
        style = fd.Observation(self.numbers, self.numbers(self.reference), noise=NOISE)
        options = {"image": self.image, "observation": style, "correction": correction}
        return fd.sample(self.net.model, plan, self.noise, **options)

    def plain(self, steps: int) -> Tensor:
        plan = fd.plan("dpm_solver_2m", fd.Schedule.edm(0.002, START), steps, grid="karras", prediction="sample")
        return fd.sample(self.net.model, plan, self.noise, image=self.image)

    def theirs(self, steps: int, strength: float) -> Tensor:
        network = self.net.model.network
        return peers.restyle(network, self.image, self.noise, steps, START, self.misfit, strength)

    def results(self, passes: int, strengths: tuple[float, ...]) -> Iterator[tuple[str, int, Tensor]]:
        """(method, passes through the network, forth and back, pictures)."""
        yield "the photographs", 0, self.image
        yield "fastdiff, no reference", passes, self.plain(passes)
        for strength in strengths:
            yield f"diffusers EDM Euler, DPS {strength:g}", passes, self.theirs(passes // 2, strength)
        yield "fastdiff, gradient", passes, self.ours("gradient", passes // 2)
        yield "fastdiff, moment", passes, self.ours("moment", passes // 5)

    def rows(self, passes: int, strengths: tuple[float, ...]) -> Iterator[list[str]]:
        """style: the root mean square difference from the reference's, in standard deviations among photographs;
        content: the correlation of brightness at a quarter of the resolution with the photograph's.
        """
        for name, spent, x in self.results(passes, strengths):
            style = self.misfit(x).mean().sqrt()
            yield [name, str(spent), f"{style:.3f}", f"{correlation(x, self.image):.3f}"]


def statistics(x: Tensor) -> Tensor:
    """[B, 48] of pictures [B, 3, H, W]: the colours' means, and the Gram matrix of colours and their slopes (after
    Gatys et al. 2016, with slopes for a network's layers).
    """
    inner = x[..., :-1, :-1]
    maps = torch.cat([inner, x[..., :-1, 1:] - inner, x[..., 1:, :-1] - inner], 1).flatten(2)
    gram = maps @ maps.mT / maps.shape[2]
    rows, columns = torch.triu_indices(9, 9)
    return torch.cat([inner.flatten(2).mean(2), gram[:, rows, columns]], 1)


def correlation(a: Tensor, b: Tensor) -> float:
    """The mean over pictures of the correlation of their brightness, by blocks of 4 x 4 pixels."""
    a, b = (avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1) for x in (a, b))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-9)).mean())

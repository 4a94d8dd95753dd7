"""Handwritten digits: the 1797 real 8x8 images of `sklearn.datasets.load_digits` (Alpaydin & Kaynak, 1998)."""

import torch


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [1797, 1, 8, 8] float32 in [-1, 1] and labels [1797] int64. Needs scikit-learn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float() / 8 - 1  # 17 ink levels, 0..16
    return images[:, None], torch.from_numpy(data.target).long()

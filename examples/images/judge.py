"""Who judges digits: a classifier that was fitted to half of them, and nearest neighbours among the other half."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from fastdiff.demo import data
from fastdiff.inspection import Coverage, coverage


class Judge:
    """A small perceptron. real, labels: the half that it has not seen."""

    def __init__(self, count: int, iterations: int) -> None:
        digits = data.mnist()
        half = len(digits.x) // 2
        self.real, self.labels = digits.x[half:][:count], digits.y[half:][:count]
        self.classifier = MLPClassifier((64,), alpha=1e-2, max_iter=iterations, random_state=0)
        self.classifier.fit(_flat(digits.x[:half][:count]), digits.y[:half][:count].numpy())

    def agreement(self, x: Tensor, y: Tensor) -> float:
        """The share of pictures x that it takes for y."""
        return float((self.classifier.predict(_flat(x)) == y.numpy()).mean())

    def features(self, x: Tensor) -> Tensor:
        """[B, 64] the inner layer."""
        inner = _flat(x) @ self.classifier.coefs_[0] + self.classifier.intercepts_[0]
        return torch.from_numpy(np.maximum(inner, 0))

    def shares(self, x: Tensor) -> Coverage:
        return coverage(self.real, x, features=self.features)


def _flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).clamp(-1, 1).double().numpy()

"""How good are generated digits? A classifier of the real ones answers, and Frechet distances to them.

    judge = DigitsJudge()
    judge.measure(images, labels)    # a dict of scores; images [N, 1, 8, 8] in [-1, 1]
    judge.floor()                    # one half of the real digits against the other: distances to compare with
    judge.unseen()                   # the other half itself: confidence and agreement to compare with

Generator and judge know the same 1797 images, so a distance below the floor is no wonder: `nearest` shows whether the
samples are copies.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier

from fastdiff.distributed.manifold import RealBalls, recall


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the rows of a and b (Heusel et al. 2017, eq. 6)."""
    return frechet_of_moments(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def frechet_of_moments(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))."""
    # The eigenvalues of a product of two positive semidefinite matrices are real and >= 0 but for rounding.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covariance_a @ covariance_b).real, 0))
    mean = np.square(mean_a - mean_b).sum()
    return float(mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * roots.sum())


def frechet_of_samples(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
    """The samples' distance from data whose mean and covariance are known."""
    return {"frechet": frechet_of_moments(x.mean(0), np.cov(x, rowvar=False), mean, covariance)}


def normalised_entropy(classes: np.ndarray) -> float:
    """Entropy of the histogram of classes [N] over ln 10: 1 where all ten are equally frequent."""
    share = np.bincount(classes, minlength=10) / len(classes)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(10))


def nearest_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance of each row of a from the nearest row of b, itself not counted where b is a."""
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    if b is a:
        np.fill_diagonal(squares, np.inf)
    return np.sqrt(np.maximum(squares.min(1), 0))


def coverage(samples: np.ndarray, real: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2): the share of samples that lie within the distance
    of a real point from its k-th neighbour, and the share of real points within that of a sample.
    """
    real, samples = (torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in (real, samples))
    balls = RealBalls(real, neighbours)
    balls.add(samples)
    return balls.scores()["precision"], recall(real, samples, neighbours)


class DigitsJudge:
    """A classifier and principal components fitted to one half of the real digits; the other half is the reference."""

    def __init__(self, seed: int = 0) -> None:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        self.real, self.labels = images[order] / 8 - 1, labels[order]
        half = len(images) // 2
        self.fitted, self.reference = self.real[:half], self.real[half:]
        self.classifier = MLPClassifier((64,), alpha=1e-3, max_iter=400, random_state=seed)
        self.classifier.fit(self.fitted, self.labels[:half])
        self.components = PCA(30, random_state=seed).fit(self.fitted)
        self.spacing = float(np.median(nearest_distance(self.real, self.real)))

    def features(self, images: np.ndarray) -> np.ndarray:
        """The hidden layer of the classifier, [N, 64]."""
        return np.maximum(images @ self.classifier.coefs_[0] + self.classifier.intercepts_[0], 0)

    def measure(self, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Scores of images [N, ...] in [-1, 1].

        top_probability: the classifier's mean confidence. confident: the share of images where it is at least 0.9.
        entropy: 1 where all classes are equally frequent. agreement: with the labels asked for.
        frechet_features, frechet_components: distances from the reference half, in the classifier's hidden layer and
        in 30 principal components. nearest: median distance from the nearest real image, over that among real images;
        near 0 for copies, near 1 for new ones.
        """
        images = np.clip(np.asarray(images, dtype=np.float64).reshape(len(images), -1), -1, 1)
        probability = self.classifier.predict_proba(images)
        classes, confidence = probability.argmax(1), probability.max(1)
        scores = {
            "top_probability": float(confidence.mean()),
            "confident": float((confidence >= 0.9).mean()),
            "entropy": normalised_entropy(classes),
            "frechet_features": frechet_distance(self.features(images), self.features(self.reference)),
            "frechet_components": frechet_distance(
                self.components.transform(images), self.components.transform(self.reference)
            ),
            "nearest": float(np.median(nearest_distance(images, self.real))) / self.spacing,
        }
        if labels is not None:
            scores["agreement"] = float((classes == np.asarray(labels)).mean())
        return scores

    def floor(self) -> dict[str, float]:
        """The scores of the real half that the reference is not."""
        return self.measure(self.fitted, self.labels[: len(self.fitted)])

    def unseen(self) -> dict[str, float]:
        """The scores of the reference half: how sure the classifier is of real digits that it was not fitted to."""
        return self.measure(self.reference, self.labels[len(self.fitted) :])

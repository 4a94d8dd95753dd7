"""How good is generated text? An n-gram model of the real one answers, a count of repeats, and a guess of the style.

    judge = TextJudge(demo.token_network("text").vocabulary)
    judge.measure(tokens, styles)    # tokens [N, L], labels [N]
    judge.held_out(length)           # the same for chapters that neither the judge nor the network has seen

A low perplexity alone is no praise: text that repeats itself has one. It is read beside distinct-n.
"""

from __future__ import annotations

import numpy as np
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from fastdiff.demo import texts
from fastdiff.demo.byte_pairs import BytePairs

ORDER = 4
BASE = 1024  # a gram of n tokens is one number with n digits


def grams(rows: np.ndarray, n: int) -> np.ndarray:
    """[N, L - n + 1] the number of each n tokens in a row [N, L]."""
    length = rows.shape[1] - n + 1
    return sum(rows[:, i : i + length].astype(np.int64) * BASE ** (n - 1 - i) for i in range(n))


class Counts:
    """How often each number occurs in a list; 0 for those that do not."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.counts = np.unique(values, return_counts=True)

    def __call__(self, asked: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.values, asked).clip(max=len(self.values) - 1)
        return np.where(self.values[place] == asked, self.counts[place], 0)


class NGrams:
    """p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h)), h' without its oldest token (Witten & Bell 1991).

    c counts in the text, T(h) is the number of different tokens after h. Of the first tokens of a row h is shorter.
    """

    def __init__(self, stream: np.ndarray, vocabulary: int, order: int = ORDER) -> None:
        self.vocabulary, self.order = vocabulary, order
        self.whole = [Counts(grams(stream[None], n)[0]) for n in range(1, order + 1)]
        self.before = [Counts(grams(stream[None, :-1], n)[0]) for n in range(1, order)]
        self.kinds = [Counts(counts.values // BASE) for counts in self.whole]

    def log_probability(self, rows: np.ndarray) -> np.ndarray:
        """[N, L] ln p of each token of rows [N, L] after those before it."""
        p = np.full(rows.shape, 1 / self.vocabulary)
        for n in range(1, self.order + 1):
            gram = grams(rows, n)
            shorter = gram // BASE
            total = self.before[n - 2](shorter) if n > 1 else self.whole[0].counts.sum()
            kinds = self.kinds[n - 1](shorter)
            better = (self.whole[n - 1](gram) + kinds * p[:, n - 1 :]) / np.maximum(total + kinds, 1)
            p[:, n - 1 :] = np.where(kinds > 0, better, p[:, n - 1 :])
        return np.log(p)


def distinct(rows: np.ndarray, n: int) -> float:
    """The share of different ones among all n tokens in a row of the samples (Li et al. 2016)."""
    values = grams(rows, n)
    return len(np.unique(values)) / values.size


class TextJudge:
    """Fitted to the chapters that the network learns; the held-out ones tell what real text scores."""

    def __init__(self, vocabulary: BytePairs) -> None:
        self.vocabulary = vocabulary
        learnt, self.held = texts.split()
        stream = [n for chapter in learnt for verse in chapter.verses for n in vocabulary.encode(" " + verse)]
        self.model = NGrams(np.array(stream), len(vocabulary))
        self.learnt = x, y = texts.windows(learnt, vocabulary, 128)
        self.classifier = MultinomialNB().fit(self._histogram(x.numpy()), y.numpy())

    def measure(self, tokens: Tensor, styles: Tensor) -> dict[str, float]:
        """perplexity a token, distinct_2 and distinct_4, and style: how often a naive Bayes classifier finds it."""
        rows = tokens.numpy()
        return {
            "perplexity": float(np.exp(-self.model.log_probability(rows).mean())),
            "distinct_2": distinct(rows, 2),
            "distinct_4": distinct(rows, 4),
            "style": float((self.classifier.predict(self._histogram(rows)) == styles.numpy()).mean()),
        }

    def held_out(self, length: int, count: int) -> dict[str, float]:
        """The scores of so many held-out pieces."""
        x, y = texts.windows(self.held, self.vocabulary, length)
        order = np.random.default_rng(0).permutation(len(x))[:count]
        return self.measure(x[order], y[order])

    def _histogram(self, rows: np.ndarray) -> np.ndarray:
        counts = np.zeros((len(rows), BASE), dtype=np.float32)
        np.add.at(counts, (np.arange(len(rows))[:, None], rows), 1)
        return counts

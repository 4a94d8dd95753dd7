"""Byte-pair encoding (Sennrich et al. 2016): text as numbers, each for a piece of a word, and back."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

WORD = re.compile(r" ?[A-Za-z]+| ?[^A-Za-z ]+| ")  # a space belongs to the word that it precedes


class BytePairs:
    """A vocabulary: the signs of the alphabet, then a piece for each merge of two pieces, in the order of learning."""

    def __init__(self, alphabet: str, merges: Sequence[tuple[str, str]]) -> None:
        self.alphabet, self.merges = alphabet, [(left, right) for left, right in merges]
        self.pieces = [*alphabet, *(left + right for left, right in self.merges)]
        self._number = {piece: i for i, piece in enumerate(self.pieces)}
        self._rank = {pair: i for i, pair in enumerate(self.merges)}
        self._word = functools.lru_cache(100_000)(self._encode_word)

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's pieces. Raises ValueError naming the signs that the alphabet does not have."""
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise ValueError(f"text: expected signs of {self.alphabet!r}, got {''.join(unknown)!r}")
        return [number for word in WORD.findall(text) for number in self._word(word)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of these pieces."""
        return "".join(self.pieces[number] for number in numbers)

    def _encode_word(self, word: str) -> list[int]:
        pieces = list(word)
        while len(pieces) > 1:
            pair = min(itertools.pairwise(pieces), key=lambda p: self._rank.get(p, len(self._rank)))
            if pair not in self._rank:
                break
            pieces = merged(pieces, pair)
        return [self._number[piece] for piece in pieces]

    def save(self, path: Path) -> None:
        """Write alphabet and merges as JSON."""
        path.write_text(json.dumps({"alphabet": self.alphabet, "merges": self.merges}, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> BytePairs:
        """Read what `save` wrote."""
        parts = json.loads(path.read_text())
        return cls(parts["alphabet"], [(left, right) for left, right in parts["merges"]])

    @classmethod
    def learn(cls, text: str, size: int) -> BytePairs:
        """The vocabulary of `size` pieces: time and again the pair that is most frequent in the text becomes one."""
        words = [(list(word), count) for word, count in sorted(Counter(WORD.findall(text)).items())]
        alphabet = "".join(sorted(set(text)))
        merges: list[tuple[str, str]] = []
        while len(alphabet) + len(merges) < size:
            pairs: Counter[tuple[str, str]] = Counter()
            for pieces, count in words:
                for pair in itertools.pairwise(pieces):
                    pairs[pair] += count
            if not pairs:
                break
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            merges.append(best)
            words = [(merged(pieces, best) if best[0] in pieces else pieces, count) for pieces, count in words]
        return cls(alphabet, merges)


def merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word with every such pair as one."""
    result: list[str] = []
    for piece in pieces:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result

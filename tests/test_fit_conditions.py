"""Conditions in batches, as a generator makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from mixtures import SCHEDULE, model, noise, shorten_catalogue, shorten_search
from torch import Tensor

import fastdiff as fd
from fastdiff.fitting import fit_plan
from fastdiff.fitting.conditions import read_conditions


def fit(subject: Callable = model, **options: object) -> fd.Plan:
    return fd.fit(subject, SCHEDULE, 2, noise(8), prediction="sample", tolerance=0.02, batch=3, **options)


class Batches:
    """Labels in batches of these sizes, which knows how many were read."""

    def __init__(self, sizes: list[int], labels: Tensor) -> None:
        self.parts, self.read = labels.split(sizes), 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for part in self.parts:
            self.read += 1
            yield {"y": part}


def test_batches_give_the_plan_of_their_whole(monkeypatch):
    shorten_search(monkeypatch)
    shorten_catalogue(monkeypatch)
    monkeypatch.setattr(fit_plan, "MAX_TRACED", 6)
    labels = torch.randint(0, 3, (8,))
    assert fit(conditions=Batches([1, 4, 3], labels)) == fit(y=labels)


@pytest.mark.parametrize(("method", "read"), [("forward", 3), ("full", 4)])
def test_no_more_batches_are_read_than_samples_need(method, read, monkeypatch):
    def stopping(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_plan, "MAX_TRACED", 6)
    batches = Batches([1, 4, 2, 3, 5, 5], torch.zeros(20, dtype=torch.long))  # 7 hold 6, 10 hold 8
    with pytest.raises(KeyboardInterrupt):
        fit(stopping, conditions=batches, method=method)
    assert batches.read == read


def test_too_few_are_an_error_that_names_both_numbers():
    with pytest.raises(ValueError, match="conditions: 8 samples need as many, the batches end after 5"):
        fit(conditions=Batches([2, 3], torch.zeros(5, dtype=torch.long)))


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (torch.zeros(8), TypeError, "expected an iterable of dicts, got Tensor"),
        ({"y": torch.zeros(8)}, TypeError, "expected an iterable of dicts, got dict"),
        ([torch.zeros(8)], TypeError, "expected each batch to be a dict of tensors, got tensor"),
        ([{"y": "a cat"}], TypeError, "expected y to be a tensor with the batch first, got 'a cat'"),
        ([{"y": torch.tensor(1)}], TypeError, r"expected y to be a tensor with the batch first, got tensor\(1\)"),
        ([{"y": torch.zeros(2), "z": torch.zeros(3)}], ValueError, "one length > 0, got {'y': 2, 'z': 3}"),
        ([{"y": torch.zeros(0)}], ValueError, "one length > 0, got {'y': 0}"),
        ([{"y": torch.zeros(2, 5)}, {"y": torch.zeros(2, 4)}], ValueError, r"alike, got samples of {'y': \(\(5,\)"),
        ([{"y": torch.zeros(2)}, {"z": torch.zeros(2)}], ValueError, "expected all batches to be alike"),
    ],
    ids=str,
)
def test_what_is_no_batch_is_refused(given, kind, words):
    with pytest.raises(kind, match=f"conditions: .*{words}"):
        read_conditions(given, 4)


def test_names_are_the_models_and_given_once():
    eight = torch.zeros(8, dtype=torch.long)
    with pytest.raises(TypeError, match="label: neither an option here nor an argument of the model"):
        fit(conditions=[{"label": eight}])
    with pytest.raises(ValueError, match="conditions: y is a keyword argument too"):
        fit(conditions=[{"y": eight}], y=eight)

"""What a fit does to the model while it runs, and that nothing of it is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import tiny_guided_pipelines as guided
import torch
from mixtures import SCHEDULE, model, noise
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.fitting.frozen import frozen, modules_of

pytestmark = pytest.mark.usefixtures("short_fits")


class Network(nn.Module):
    """The mixture, of a parameter, with dropout and a module that is always evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.fixed = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3).eval()
        self.seen: set[tuple[bool, bool, bool]] = set()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        m = self.drop(self.gain * model(x, t) + self.fixed)
        self.seen.add((self.training, self.gain.requires_grad, m.requires_grad and not x.requires_grad))
        return m

    def flags(self) -> list[bool]:
        return [*(m.training for m in self.modules()), *(p.requires_grad for p in self.parameters())]


def fit(subject: Callable, **options: object) -> fd.Plan:
    return fd.fit(subject, SCHEDULE, 3, noise(8), prediction="sample", tolerance=0.02, **options)


@pytest.mark.parametrize("method", ["forward", "full"])
def test_a_model_in_training_is_fitted_as_it_evaluates_and_goes_on_training(method):
    network = Network()
    before = network.flags()
    fit(network, method=method, iterations=1)
    assert network.seen == {(False, False, False)}  # no graph of the parameters, dropout off
    assert network.flags() == before
    assert network.gain.grad is None


def test_flags_come_back_after_an_exception():
    network = Network()
    before = network.flags()

    def failing(x: Tensor, t: Tensor) -> Tensor:
        assert not network.training
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(lambda x, t: failing(network(x, t), t))
    assert network.flags() == before


NAMED = Network()


class Wrapper:
    """Calls a network, and is no module."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def modules(self) -> Iterator[nn.Module]:
        return self.inner.modules()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.inner(x, t)


def test_modules_are_found_behind_functions_partials_methods_and_wrappers():
    network = Network()
    every = list(network.modules())
    inner = functools.partial(network)
    for subject in (
        network, inner, network.forward, lambda x, t: network(x, t), lambda x, t: inner(x, t), Wrapper(network),
        torch.no_grad()(network),
    ):  # fmt: skip
        assert modules_of(subject) == every
    assert modules_of(lambda x, t: NAMED(x, t)) == list(NAMED.modules())
    assert modules_of(model) == []


def test_networks_of_a_pipeline_are_frozen():
    pipe, _ = guided.stable_diffusion()
    pipe.unet.train()
    with frozen(fd.pipelines.denoiser(pipe, prompt="a cat").model):
        assert not any(p.requires_grad for p in pipe.unet.parameters())
        assert not any(m.training for m in pipe.unet.modules())
    assert all(p.requires_grad for p in pipe.unet.parameters())
    assert all(m.training for m in pipe.unet.modules())

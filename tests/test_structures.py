"""Points in space: frames around the model leave the solver's history in one frame; the best rigid motion; centres."""

from __future__ import annotations

import math

import pytest
import torch

import fastdiff as fd
from fastdiff import structures

DOUBLE = {"dtype": torch.float64}
SCHEDULE = fd.Schedule.edm(0.01, 80.0)


def points(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, **DOUBLE)


def shrink(x, t):
    """E[x0 | x] of points around their centre with variance 4: equivariant as it is."""
    middle = x.mean(1, keepdim=True)
    return middle + (x - middle) * (4 / (4 + t**2))[:, None, None]


def stretch(x, t):
    """A model that prefers an axis."""
    return shrink(x, t) * torch.tensor([2.0, 1.0, 0.5], **DOUBLE)


def test_rotations_keep_lengths_and_hands():
    R = structures.random_rotations(50, **DOUBLE)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, **DOUBLE).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(50, **DOUBLE))


def test_rotations_are_uniform():
    """Entries of a uniform rotation have mean 0 and variance 1/3, and E[R_11^4] = 1/5; bounds of 7 standard errors."""
    n = 20_000
    R = structures.random_rotations(n, **DOUBLE)
    assert R.mean(0).abs().max() < 7 * math.sqrt(1 / 3 / n)
    assert (R.square().mean(0) - 1 / 3).abs().max() < 7 * math.sqrt((1 / 5 - 1 / 9) / n)


def test_an_equivariant_model_is_the_same_in_every_frame():
    x, t = points(4, 6, 3) + 5, torch.rand(4, **DOUBLE)
    wrapped = structures.equivariant(shrink, translation=3.0)
    torch.testing.assert_close(wrapped(x, t), shrink(x, t))


@pytest.mark.parametrize("prediction", ["epsilon", "score"])
def test_differences_only_turn(prediction):
    x, t = points(4, 6, 3), torch.rand(4, **DOUBLE)

    def difference(x, t):
        return x - shrink(x, t)

    wrapped = structures.equivariant(difference, prediction=prediction, translation=3.0)
    torch.testing.assert_close(wrapped(x, t), difference(x, t))


def test_the_model_sees_the_same_shape_around_a_centre_of_its_own():
    x, t, seen = points(3, 6, 3) + 9, torch.ones(3, **DOUBLE), []
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0])
    structures.equivariant(lambda x, t: seen.append(x) or x, mask=mask)(x, t)
    torch.testing.assert_close(torch.cdist(seen[0], seen[0]), torch.cdist(x, x))
    assert seen[0][:, :4].mean(1).abs().max() < 1e-12
    assert (seen[0] - x).abs().min() > 0


@pytest.mark.parametrize("solver", ["dpmpp_3m", "unipc"])
def test_a_multistep_solver_keeps_one_frame(solver):
    """With an equivariant model the run is the one without the wrapper: were x turned, the history would not fit."""
    plan, noise = fd.plan(solver, SCHEDULE, 8, grid="karras", prediction="sample"), points(3, 7, 3)
    wrapped = structures.equivariant(shrink, translation=2.0, align=False)
    torch.testing.assert_close(fd.sample(wrapped, plan, noise), fd.sample(shrink, plan, noise))


def test_a_frame_belongs_to_a_seed_and_a_time():
    x, t = points(1, 5, 3).expand(3, 5, 3), torch.tensor([0.5, 0.5, 0.7], **DOUBLE)
    both = structures.equivariant(stretch, seeds=[7, 8, 7])(x, t)
    alone = structures.equivariant(stretch, seeds=[7])(x[:1], t[:1])
    torch.testing.assert_close(both[:1], alone)
    assert (both[1] - both[0]).abs().max() > 1e-3
    assert (both[2] - both[0]).abs().max() > 1e-3


def test_turning_the_points_turns_the_law_of_the_answer():
    """Means over frames, f'(Q x) and Q f'(x), by 7 standard errors; the model itself prefers an axis."""
    n = 20_000
    Q = structures.random_rotations(1, **DOUBLE)[0]
    x, t = points(1, 4, 3), torch.ones(n, **DOUBLE)
    wrapped = structures.equivariant(stretch)
    turned, still = wrapped((x @ Q.mT).expand(n, 4, 3), t), wrapped(x.expand(n, 4, 3), t) @ Q.mT
    error = ((turned.var(0) + still.var(0)) / n).sqrt()
    assert ((turned.mean(0) - still.mean(0)).abs() < 7 * error).all()


def test_alignment_finds_the_motion():
    x, R, b = points(5, 8, 3), structures.random_rotations(5, **DOUBLE), points(5, 1, 3)
    to = x @ R.mT + b
    torch.testing.assert_close(structures.align(x, to), to)
    mask = torch.tensor([1.0] * 6 + [0.0] * 2)
    spoilt = torch.where(mask[:, None] > 0, to, 100.0)
    torch.testing.assert_close(structures.align(x, spoilt, mask), to)


def test_alignment_is_the_best_of_all_rotations_and_no_mirror():
    x, w = points(1, 8, 3), torch.rand(1, 8, **DOUBLE)
    to = x * torch.tensor([1.0, 1.0, -1.0], **DOUBLE)

    def misfit(y):
        return (w[..., None] * (y - to).square()).sum((1, 2))

    best = structures.align(x, to, w)
    assert torch.linalg.det(torch.linalg.lstsq(structures.centre(x, w), structures.centre(best, w)).solution) > 0.99
    tried = structures.centre(x, w) @ structures.random_rotations(2000, **DOUBLE).mT
    tried = tried + (w[..., None] * to).sum(1, keepdim=True) / w.sum()
    assert misfit(best) <= misfit(tried).min() + 1e-12


def test_alignment_of_points_on_a_line_is_finite_and_float32_is_computed_in_float64():
    line = torch.linspace(0, 1, 5)[None, :, None] * torch.tensor([1.0, 2.0, 3.0])
    moved = structures.align(line, line.flip(2) + 4)
    torch.testing.assert_close(moved, line.flip(2) + 4)
    assert moved.dtype == torch.float32


def test_the_answer_is_moved_onto_x_if_asked():
    """A model that answers in any frame it likes is as good as one that answers in that of x."""
    x, t = points(3, 6, 3), torch.full((3,), 0.2, **DOUBLE)

    def elsewhere(x, t):
        return shrink(x, t) @ structures.random_rotations(3, **DOUBLE).mT + 7

    torch.testing.assert_close(structures.equivariant(elsewhere, align=True)(x, t), shrink(x, t))


def test_centred_noise_has_no_centre_and_the_variance_of_the_subspace():
    n, size = 40_000, 4
    x = structures.centred_noise((n, size, 3), **DOUBLE)
    assert x.mean(1).abs().max() < 1e-12
    variance = 1 - 1 / size
    assert (x.square().mean(0) - variance).abs().max() < 7 * variance * math.sqrt(2 / n)


def test_centred_noise_of_padded_sets_belongs_to_seeds():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    x = structures.centred_noise((2, 4, 3), mask, seeds=[3, 4])
    assert x[0, 3].abs().max() == 0
    assert x.sum(1).abs().max() < 1e-5
    torch.testing.assert_close(structures.centred_noise((1, 4, 3), mask[:1], seeds=[3]), x[:1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: structures.equivariant(3), "model: expected a function"),
        (lambda: structures.equivariant(shrink, prediction="x0"), "prediction: expected one of sample"),
        (
            lambda: structures.equivariant(shrink, prediction="epsilon", align=True),
            "align: expected prediction",
        ),
        (lambda: structures.equivariant(shrink, translation=-1.0), "translation: expected a number >= 0"),
        (lambda: structures.equivariant(shrink)(torch.zeros(2, 3), torch.zeros(2)), "x: expected points"),
        (lambda: structures.equivariant(shrink)(torch.zeros(2, 3, 2), torch.zeros(2)), "in three dimensions, got 2"),
        (lambda: structures.centre(torch.zeros(2, 3, 3), torch.ones(4)), r"mask: expected shape \(2, 3\)"),
        (lambda: structures.centre(torch.zeros(2, 3, 3, dtype=torch.int64)), "x: expected a tensor of floating"),
        (lambda: structures.align(torch.zeros(2, 3, 3), torch.zeros(2, 4, 3)), "to: expected the shape of x"),
        (lambda: structures.random_rotations(2, torch.zeros(3, 4)), r"normals: expected shape \[2, 4\]"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()

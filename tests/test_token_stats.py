"""token_stats: one definition, every backend."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import INTERPRETING
from host_reads import HostReads
from token_rows import Options, assert_right
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import TokenStats, token_stats

OP = "token_stats"
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPES = [F32, F16] + [BF16] * (not INTERPRETING)  # broken in the interpreter
SIZES = [1, 7, 1500] if INTERPRETING else [1, 2, 3, 7, 31, 64, 257, 1000, 4099, 20011]
OPTIONS = {
    "plain": Options(),
    "greedy": Options(temperature=0.0),
    "cold": Options(temperature=0.3),
    "hot": Options(temperature=2.5),
    "top_k": Options(0.8, top_k=5),
    "top_p": Options(0.8, top_p=0.7),
    "both": Options(1.3, top_k=40, top_p=0.9),
    "excluded": Options(0.7, exclude=(1, 0)),
}


def call(backend: str, device: str, logits: Tensor, *given: Tensor, **options: object) -> TokenStats:
    """On the device and back."""
    there = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in options.items()}
    with fd.backend(backend):
        stats = token_stats(logits.to(device), *(t.to(device) for t in given), **there)
    return TokenStats(*(None if t is None else t.cpu() for t in stats))


def draw_seeds(batch: int) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (batch,))


def equal(a: TokenStats, b: TokenStats) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True) if x is not None)


# In the interpreter each set of options meets one dtype.
KINDS = [(dtype, name) for d, dtype in enumerate(DTYPES) for n, name in enumerate(OPTIONS)
         if not INTERPRETING or (d + n) % 2 == 0]  # fmt: skip


@pytest.mark.parametrize(("dtype", "name"), KINDS, ids=str)
def test_equals_the_definition(backend: str, device: str, dtype: torch.dtype, name: str) -> None:
    options = OPTIONS[name]
    for size in SIZES:
        if len(options.exclude) >= size:
            continue
        logits = (4 * torch.randn(2, 3, size)).to(dtype)
        current, seeds, index = torch.randint(-1, size + 1, (2, 3)), draw_seeds(2), torch.tensor([5, 2**32 - 1])
        found = call(backend, device, logits, current, seeds=seeds, index=index, **options._asdict())
        assert_right(found, logits, options, current, seeds, index)


def test_float64_keeps_its_digits() -> None:
    z = 4 * torch.randn(2, 50, dtype=F64)
    found = token_stats(z, z.argmin(-1), seeds=draw_seeds(2), temperature=0.5)
    p, q = z.softmax(-1), (2 * z).softmax(-1)
    assert found.entropy.dtype == F64
    torch.testing.assert_close(found.entropy, -(p * p.log()).sum(-1), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.current_prob, p.amin(-1), rtol=1e-13, atol=0)
    torch.testing.assert_close(found.drawn_log_prob, q.gather(-1, found.sample[:, None])[:, 0].log())


def strided(z: Tensor) -> Tensor:
    return z.repeat_interleave(2, -1)[..., ::2]


def transposed(z: Tensor) -> Tensor:
    return z.mT.contiguous().mT


def padded(z: Tensor) -> Tensor:
    return torch.cat([z, z], -1)[..., : z.shape[-1]]


def misaligned(z: Tensor) -> Tensor:
    return torch.cat([z.new_zeros(1), z.flatten()])[1:].view(z.shape)


def part_of_a_sequence(z: Tensor) -> Tensor:
    return torch.cat([z, z], 1)[:, z.shape[1] :]


@pytest.mark.parametrize("layout", [strided, transposed, padded, misaligned, part_of_a_sequence])
@pytest.mark.parametrize("dtype", [*[F32] * (not INTERPRETING), F16], ids=str)
def test_layouts_give_the_same_bits(backend: str, device: str, dtype: torch.dtype, layout: Callable) -> None:
    z = (3 * torch.randn(2, 5, 1237)).to(dtype)
    options = {"seeds": draw_seeds(2), "temperature": 0.9}
    assert equal(call(backend, device, layout(z), **options), call(backend, device, z, **options))


def test_more_dimensions_are_rows_in_their_order(backend: str, device: str) -> None:
    z, seeds = torch.randn(2, 3, 4, 33), draw_seeds(2)
    whole = call(backend, device, z.permute(0, 2, 1, 3), seeds=seeds, temperature=1.0)
    flat = call(backend, device, z.permute(0, 2, 1, 3).flatten(1, 2), seeds=seeds, temperature=1.0)
    assert whole.sample.shape == (2, 4, 3)
    assert equal(TokenStats(*(None if t is None else t.flatten(1) for t in whole)), flat)
    single = call(backend, device, z[:, 0, 0], seeds=seeds, temperature=1.0)
    assert torch.equal(single.sample, flat.sample[:, 0])


@pytest.mark.parametrize("filters", [{}, *[{"top_k": 20, "top_p": 0.8}] * (not INTERPRETING)], ids=str)
def test_a_row_has_the_same_bits_in_any_batch_and_any_part_of_its_sequence(
    backend: str, device: str, filters: dict
) -> None:
    z, seeds, t = 3 * torch.randn(3, 8, 5003), draw_seeds(3), torch.tensor([0.7, 0.0, 1.3], dtype=F64)
    whole = call(backend, device, z, seeds=seeds, temperature=t, index=3, **filters)
    positions = torch.arange(8).expand(3, -1)
    for b in range(3):
        given = {"seeds": seeds[b : b + 1], "temperature": t[b : b + 1], "index": torch.tensor([3])}
        part = call(backend, device, z[b : b + 1, 2:5], **given, positions=positions[b : b + 1, 2:5], **filters)
        right = TokenStats(*(None if x is None else x[b : b + 1, 2:5] for x in whole))
        if backend == "reference":  # which promises digits, not bits
            assert torch.equal(part.sample, right.sample)
        else:
            assert equal(part, right)


def test_every_row_has_its_own_random_number(backend: str, device: str) -> None:
    z = torch.zeros(1, 1, 1000).expand(3, 10, 1000)
    seeds = torch.tensor([5, 6, 5])
    first, second = (call(backend, device, z, seeds=seeds, temperature=1.0, index=i).sample for i in (0, 1))
    assert torch.equal(first[0], first[2])
    for a, b in ((first[0], first[1]), (first[0], second[0]), (first[0, :-1], first[0, 1:])):
        assert (a == b).double().mean() < 0.5


@pytest.mark.parametrize("size", [7, *[1000] * (not INTERPRETING)])
def test_tokens_are_drawn_as_often_as_their_law_says(backend: str, device: str, size: int) -> None:
    count = 50 if INTERPRETING else 10_000 if backend == "reference" else 200_000
    z = 2 * torch.randn(1, 1, size)
    drawn = call(backend, device, z.expand(1, count, size), seeds=draw_seeds(1), temperature=0.8).sample
    q = (z.double()[0, 0] / 0.8).softmax(-1)
    counts = drawn.flatten().bincount(minlength=size)
    # 7 standard errors, and what a Poisson count of few may exceed them by
    assert ((counts - count * q).abs() <= 7 * (count * q * (1 - q)).sqrt() + 16).all()


def test_the_tail_of_a_large_vocabulary_has_its_mass(backend: str, device: str) -> None:
    """10^6 draws from a head of 0.99 and 126,463 equal tokens: float32 Gumbel noise halves what the tail gets."""
    if INTERPRETING:
        pytest.skip("many long rows")
    size, count = 126_464, 1_000_000
    z = torch.zeros(size)
    z[777] = math.log(0.99 / 0.01 * (size - 1))
    q, seeds = z.double().softmax(-1), draw_seeds(1)
    u = fd.ops.philox.uniform_rows(seeds, None, torch.arange(count)[None])[0]
    tokens = torch.searchsorted(q.cumsum(0), u, right=True)
    tail = (tokens != 777).nonzero()[:, 0]
    assert abs(len(tail) - 0.01 * count) <= 7 * math.sqrt(0.0099 * count)
    ranks = tokens[tail].double() / size
    assert abs(ranks.mean() - 0.5) <= 7 * math.sqrt(1 / 12 / len(tail))  # the whole tail, evenly
    few = tail[torch.randperm(len(tail))[: 4 if backend == "reference" else 100]]
    rows = z.expand(1, len(few), size)
    found = call(backend, device, rows, seeds=seeds, temperature=1.0, positions=few[None])
    assert ((found.sample[0] - tokens[few]).abs() <= 10).all()  # of 10^-7 each, in sums of 1
    torch.testing.assert_close(found.drawn_log_prob, q[tokens[few]].log().float()[None], rtol=0, atol=2e-5)


def test_guidance_is_log_linear_and_either_model_may_forbid(backend: str, device: str) -> None:
    for dtype in DTYPES:
        c, u = (2 * torch.randn(2, 4, 700)).to(dtype), (2 * torch.randn(2, 4, 700)).to(dtype)
        c[0, :, 3], u[1, :, 4], u[0, :, 5], c[0, :, 5] = -math.inf, -math.inf, -math.inf, -math.inf
        g, seeds = torch.tensor([2.5, 0.0], dtype=F64), draw_seeds(2)
        z = u.double() + g[:, None, None] * (c.double() - u.double())
        z = z.float().masked_fill((c == -math.inf) | (u == -math.inf), -math.inf)
        z = z.clamp(max=float(z.max()))
        found = call(backend, device, c, seeds=seeds, temperature=0.9, logits_uncond=u, guidance=g)
        assert_right(found, z, Options(0.9), None, seeds)


def test_a_shift_leaves_the_current_token_out(backend: str, device: str) -> None:
    z, seeds, current = 2 * torch.randn(2, 4, 50), draw_seeds(2), torch.randint(0, 50, (2, 4))
    shift = torch.tensor([-1.5, -math.inf], dtype=F64)
    found = call(backend, device, z, current, seeds=seeds, temperature=1.0, current_shift=shift)
    shifted = z.scatter_add(-1, current[..., None], shift.float()[:, None, None].expand(2, 4, 1))
    assert_right(found, shifted, Options(), current, seeds)
    assert not found.current_prob[1].count_nonzero()


def test_equal_logits(backend: str, device: str) -> None:
    count = 8 if INTERPRETING else 400  # of which each token that may be drawn gets one, but once in 10^15

    def drawn(z: list[float], **filters: float) -> set[int]:
        rows = torch.tensor(z).repeat(1, count, 1)
        found = call(backend, device, rows, seeds=draw_seeds(1), temperature=1.0, **filters)
        assert not found.margin.count_nonzero()
        assert (found.argmax == z.index(max(z))).all()
        return set(found.sample.unique().tolist())

    three, half = drawn([1.0, 3.0, 3.0, 2.0, 2.0, 2.0, 0.0], top_k=3), drawn([0.0] * 6, top_p=0.45)
    assert three <= {1, 2, 3, 4, 5}  # all that are equal to the third largest
    assert half <= {0, 1, 2}  # of equal tokens the first
    assert INTERPRETING or (len(three), len(half)) == (5, 3)


@pytest.mark.parametrize("dtype", DTYPES[-1:] if INTERPRETING else DTYPES, ids=str)
def test_rows_without_a_law_have_no_numbers_and_the_others_are_as_they_were(
    backend: str, device: str, dtype: torch.dtype
) -> None:
    z = torch.randn(1, 6, 3000).to(dtype)
    z[0, 1, 2999], z[0, 2, 0], z[0, 3], z[0, 4, 17] = math.nan, math.inf, -math.inf, math.nan
    z[0, 5, 1:] = -math.inf
    current, seeds = torch.full((1, 6), 17), draw_seeds(1)
    for filters in ({}, {"top_k": 4}, {"top_p": 0.5}):
        found = call(backend, device, z, current, seeds=seeds, temperature=1.0, **filters)
        for values in found:
            if values.dtype == torch.int64:
                assert not values[0, 1:5].count_nonzero()
            else:
                assert values[0, 1:5].isnan().all()
        one = (0, 0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
        assert [float(values[0, 5]) for values in found] == list(one)
        alone = call(backend, device, z[:, :1], current[:, :1], seeds=seeds, temperature=1.0, **filters)
        assert equal(alone, TokenStats(*(values[:, :1] for values in found)))


def test_the_largest_numbers_do_not_overflow(backend: str, device: str) -> None:
    for dtype in DTYPES:
        largest = torch.finfo(dtype).max
        z = torch.full((1, 2, 300), -largest, dtype=dtype)
        z[0, 0, 7] = largest
        found = call(backend, device, z, seeds=draw_seeds(1), temperature=0.5)
        assert found.sample[0, 0] == 7
        assert found.max_prob[0, 0] == 1
        torch.testing.assert_close(found.entropy[0], torch.tensor([0.0, math.log(300)]))


def test_extreme_temperatures(backend: str, device: str) -> None:
    z = torch.randn(1, 5, 200)
    z[..., 9] = -math.inf
    for t in (1e-300, 1e-30):
        found = call(backend, device, z, seeds=draw_seeds(1), temperature=t)
        assert torch.equal(found.sample, found.argmax)
        assert not found.drawn_entropy.count_nonzero()
    found = call(backend, device, z, seeds=draw_seeds(1), temperature=1e38)
    torch.testing.assert_close(found.drawn_entropy, torch.full((1, 5), math.log(199)))
    assert not (found.sample == 9).any()


def test_without_a_temperature_nothing_is_drawn(backend: str, device: str) -> None:
    z = torch.randn(2, 3, 100)
    found = call(backend, device, z)
    assert torch.equal(found.sample, found.argmax)
    assert torch.equal(found.argmax, z.argmax(-1))
    torch.testing.assert_close(found.log_prob, found.max_prob.log(), rtol=0, atol=2e-6)
    assert not found.drawn_log_prob.count_nonzero()
    assert found.current_prob is None
    seeded = call(backend, device, z, seeds=draw_seeds(2), temperature=torch.zeros(2, dtype=F64))
    assert torch.equal(seeded.sample, found.argmax)


def test_the_host_reads_no_value(backend: str, device: str) -> None:
    z, seeds = torch.randn(2, 3, 50, device=device), draw_seeds(2).to(device)
    current, given = torch.zeros(2, 3, dtype=torch.int64, device=device), {"temperature": 0.8, "exclude": [4]}
    with fd.backend(backend), HostReads() as reads:
        token_stats(z, current, seeds=seeds, index=7, top_k=9, top_p=0.9, current_shift=-1.0, **given)
        token_stats(z, seeds=seeds, logits_uncond=z, guidance=2.0, positions=current, **given)
    assert reads.seen == []


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (0, 5)], ids=str)
def test_no_rows(backend: str, device: str, shape: tuple[int, ...]) -> None:
    z = torch.zeros(shape)
    found = call(backend, device, z, torch.zeros(shape[:-1], dtype=torch.int64), seeds=draw_seeds(len(z)))
    assert {t.shape for t in found} == {shape[:-1]}


def test_gradients_are_right() -> None:
    c, u = (torch.randn(2, 2, 6, dtype=F64, requires_grad=True) for _ in range(2))
    seeds, current = draw_seeds(2), torch.randint(0, 6, (2, 2))

    def numbers(c: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        shared = {"seeds": seeds, "temperature": 0.7, "exclude": [3]}
        return token_stats(c, current, **shared, logits_uncond=u, guidance=1.5)[2:]

    assert torch.autograd.gradcheck(numbers, (c, u))
    z = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(token_stats(z).entropy.sum(), z)
    assert gradient.isfinite().all()


def test_the_op_is_registered_soundly_and_compiles_whole() -> None:
    z, seeds, t = torch.randn(2, 3, 9, requires_grad=True), draw_seeds(2), torch.ones(2, dtype=F64)
    nothing = (None,) * 2
    torch.library.opcheck(torch.ops.fastdiff.token_stats, (z, None, None, None, seeds, None, t, *nothing, 0, 1.0, None))
    given = {"seeds": seeds, "temperature": 0.9, "exclude": (1,)}
    compiled = torch.compile(lambda z: token_stats(z, **given), fullgraph=True, backend="aot_eager")
    assert equal(TokenStats(*compiled(z.detach())), token_stats(z.detach(), **given))


Z, SEEDS, ROWS = torch.randn(2, 3, 5), torch.tensor([1, 2]), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": Z.int()}, TypeError, "logits: expected float32, .* got torch.int32"),
        ({"logits": Z[0, 0]}, ValueError, r"logits: expected shape \[B, ..., V\] with V >= 1, got \(5,\)"),
        ({"logits": Z[..., :0]}, ValueError, r"logits: expected shape \[B, ..., V\] with V >= 1, got \(2, 3, 0\)"),
        ({"current": ROWS[:1]}, ValueError, r"current: expected shape \(2, 3\), got \(1, 3\)"),
        ({"current": ROWS.int()}, TypeError, "current: expected torch.int64, got torch.int32"),
        ({"positions": ROWS.to("meta")}, ValueError, "positions: expected device cpu, got meta"),
        ({"logits_uncond": Z.half(), "guidance": 1.0}, TypeError, "logits_uncond: expected torch.float32"),
        ({"logits_uncond": Z}, ValueError, "guidance: expected it together with logits_uncond"),
        ({"guidance": 2.0}, ValueError, "guidance: expected it together with logits_uncond"),
        ({"seeds": SEEDS[:1]}, ValueError, r"seeds: expected shape \(2,\), got \(1,\)"),
        ({"seeds": SEEDS.int()}, TypeError, "seeds: expected torch.int64"),
        ({"temperature": 1.0}, ValueError, "seeds: expected one seed a sample"),
        ({"temperature": torch.zeros(2, dtype=F64)}, ValueError, "seeds: expected one seed a sample"),
        ({"seeds": SEEDS, "temperature": -1.0}, ValueError, "temperature: expected a finite number >= 0, got -1"),
        ({"seeds": SEEDS, "temperature": math.nan}, ValueError, "temperature: expected a finite number >= 0"),
        ({"seeds": SEEDS, "temperature": torch.ones(2)}, TypeError, "temperature: expected torch.float64"),
        ({"current_shift": 1.0}, ValueError, "current_shift: expected current beside it"),
        ({"top_k": 0}, ValueError, "top_k: expected None or a number >= 1, got 0"),
        ({"top_p": 0.0}, ValueError, r"top_p: expected None or a number in \(0, 1\], got 0"),
        ({"top_p": math.nan}, ValueError, "top_p: expected"),
        ({"exclude": [5]}, ValueError, r"exclude: expected tokens in \[0, 5\), got 5"),
        ({"exclude": range(5)}, ValueError, "exclude: expected at most 4 tokens, got 5"),
        ({"index": -1}, ValueError, r"index: expected a number in \[0, 2\^32\), got -1"),
        ({"index": SEEDS[:1]}, ValueError, r"index: expected shape \(2,\)"),
    ],
)
def test_bad_input_names_the_argument(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        token_stats(**{"logits": Z, **arguments})

"""The draws: Philox's published vectors, what each number depends on, and where seeds come from.

Their distribution and independence: ``test_random_statistics.py``.
"""

from __future__ import annotations

import math

import pytest
import torch

import fastvi
from fastvi import _native
from fastvi.ops._backends import MODULES, connect
from fastvi.ops.random import normal_noise
from support.operations import SAMPLES, SEED, as_tuple, gradients, weighted_sum
from support.place import place

ROUNDING = {"rtol": 1e-12, "atol": 1e-14}
"""Some roundings of float64; where the angle is near an axis they are relative to the radius."""

DRAWS = [sample for sample in SAMPLES if sample.operation.startswith("rsample")]

# Random123 1.14 (Salmon et al.), kat_vectors, philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(isa, counter, key, expected):
    assert _native.load(isa).philox(*counter, key[0] | key[1] << 32) == expected


def philox_words(counters: list[tuple[int, int, int, int]], seed: int) -> torch.Tensor:
    return place.tensor([_native.module().philox(*counter, seed) for counter in counters], dtype=torch.float64)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("blocks", [1, 63, 64, 65, 500])
def test_words_of_flat_draws(isa, blocks):
    """The generator as the kernels run it, many blocks at once, against one at a time."""
    seed = torch.tensor(SEED)
    words = torch.full((blocks + 1, 2), -1)
    connect(_native.load(isa)).fill_philox_words(words[:-1], seed)
    words = words.view(torch.int32)
    expected = philox_words([(block, 0, 0, 0xFFFFFFFF) for block in range(blocks)], SEED)
    assert torch.equal(words[:-1].double() % 2**32, expected)
    assert (words[-1] == -1).all()


def test_other_kernels_draw_the_cpus_numbers(chosen_kernels):
    """Integers to the bit. Normals to 4 units in the last place: a compiler may fuse multiplications with additions."""
    other = MODULES.cuda if place.device != "cpu" else chosen_kernels
    if other is None:
        pytest.skip("compares the kernels of --device or --kernels with the CPU's")
    blocks, words, cpu = 250_000, [], connect(_native.module())
    for module, seed in ((other, place.tensor(SEED)), (cpu, torch.tensor(SEED))):
        words.append(torch.full((2 * blocks,), -1, device=seed.device))
        module.fill_philox_words(words[-1], seed)
    assert torch.equal(words[0].cpu(), words[1])
    for dtype, integer in ((torch.float32, torch.int32), (torch.float64, torch.int64)):
        draws = fastvi.standard_normal(4 * blocks, SEED, dtype=dtype, device=place.device).cpu()
        expected = torch.empty_like(draws)
        cpu.forward.fill_standard_normal(expected, SEED)
        assert (draws.view(integer).long() - expected.view(integer).long()).abs().max() <= 4


def box_muller(words: torch.Tensor) -> torch.Tensor:
    """Box and Muller 1958: a radius from each first word, the middle of its cell; an angle from each second."""
    uniform = (words[:, ::2] + 0.5) / 2.0**32
    radius = torch.sqrt(-2 * torch.log(uniform))
    turn = 2 * math.pi * words[:, 1::2] / 2.0**32
    return torch.stack((radius * torch.cos(turn), radius * torch.sin(turn)), -1).reshape(len(words), 4)


@pytest.mark.parametrize("seed", [0, SEED, 2**63 - 1])
def test_flat_draws_are_box_muller_of_philox(seed):
    """By the definition, with the tested generator: every one of a word's 32 bits counts."""
    counters = [(quad, 0, 0, 0xFFFFFFFF) for quad in range(500)]
    draws = fastvi.standard_normal(2000, seed, dtype=torch.float64, device=place.device)
    torch.testing.assert_close(draws, box_muller(philox_words(counters, seed)).flatten(), **ROUNDING)


def test_sample_noise_is_box_muller_of_philox():
    """Counter words: quad of four columns, row (two words), sample."""
    offset = 2**32 - 2  # rows go past what one word counts
    noise = fastvi.rsample_normal(*place.zeros(2, 4, 8, dtype=torch.float64), 3, seed=SEED, row_offset=offset)
    counters = [
        (quad, (row + offset) % 2**32, (row + offset) // 2**32, sample)
        for sample in range(3)
        for row in range(4)
        for quad in range(2)
    ]
    torch.testing.assert_close(noise.flatten(), box_muller(philox_words(counters, SEED)).flatten(), **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_element_depends_on_seed_and_place_alone(dtype):
    """A shorter draw is the beginning of a longer one, whatever quads and vectors it ends in."""
    longest = fastvi.standard_normal(10_000, SEED, dtype=dtype, device=place.device)
    for length in (0, 1, 2, 3, 4, 5, 127, 128, 129, 2047, 2048, 2049, 9_999):
        assert torch.equal(fastvi.standard_normal(length, SEED, dtype=dtype, device=place.device), longest[:length])
    assert torch.equal(
        fastvi.standard_normal((10, 5, 200), SEED, dtype=dtype, device=place.device), longest.reshape(10, 5, 200)
    )
    assert not torch.equal(fastvi.standard_normal(10_000, SEED + 1, dtype=dtype, device=place.device), longest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_depends_on_seed_sample_row_and_column_alone(dtype):
    """More samples, rows or columns change none of the others: eps[k, b, d] of any smaller draw is the same."""

    def noise(samples: int, rows: int, columns: int) -> torch.Tensor:
        mean = place.zeros(rows, columns, dtype=dtype)
        return fastvi.rsample_normal(mean, mean, samples, seed=SEED)

    whole = noise(20, 40, 1100)
    for samples, rows, columns in ((1, 1, 1), (20, 1, 1100), (3, 40, 5), (9, 7, 1024), (2, 39, 1025), (20, 40, 3)):
        assert torch.equal(noise(samples, rows, columns), whole[:samples, :rows, :columns])


@pytest.mark.parametrize("columns", [1, 3, 4, 50, 1030])
def test_shards_draw_what_the_whole_draws(columns):
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 11, columns, generator=generator).to(place.device).unbind()
    whole = fastvi.rsample_normal(mean, logvar, 5, seed=SEED, row_offset=100)
    whole_z, whole_ratio = fastvi.rsample_normal_with_log_ratio(mean, logvar, 5, seed=SEED, row_offset=100)
    assert torch.equal(whole, whole_z)
    for start, end in ((0, 4), (4, 5), (5, 11)):
        shard = mean[start:end], logvar[start:end]
        assert torch.equal(fastvi.rsample_normal(*shard, 5, seed=SEED, row_offset=100 + start), whole[:, start:end])
        z, ratio = fastvi.rsample_normal_with_log_ratio(*shard, 5, seed=SEED, row_offset=100 + start)
        assert torch.equal(z, whole[:, start:end])
        assert torch.equal(ratio, whole_ratio[:, start:end])


def test_rows_are_counted_over_all_leading_axes():
    mean = place.zeros(2, 3, 5)
    draws = fastvi.rsample_normal(mean, mean, 4, seed=SEED)
    assert torch.equal(draws, fastvi.rsample_normal(mean.flatten(0, 1), mean[0, 0], 4, seed=SEED).reshape(4, 2, 3, 5))
    assert torch.equal(draws, fastvi.rsample_normal(mean, mean, (2, 2), seed=SEED).flatten(0, 1))


def test_samples_rows_and_columns_are_independent_numbers():
    """No number comes twice among those of a sample and of a flat draw of the same seed."""
    mean = place.zeros(50, 40, dtype=torch.float64)
    numbers = torch.cat(
        (
            fastvi.rsample_normal(mean, mean, 25, seed=SEED).flatten(),
            fastvi.standard_normal(50_000, SEED, dtype=torch.float64, device=place.device),
        )
    )
    # Among 5e9 pairs of numbers of 52 bits, two equal ones have a probability of 1e-6.
    assert numbers.unique().numel() == numbers.numel()


def test_float32_draws_are_the_float64_draws_rounded():
    """To a few ulp of the number itself, small ones included; the angle's rounding shows near the axes."""
    double = fastvi.standard_normal(1_000_000, SEED, dtype=torch.float64, device=place.device)
    single = fastvi.standard_normal(1_000_000, SEED, dtype=torch.float32, device=place.device).double()
    spacing = torch.finfo(torch.float32).eps
    assert ((single - double).abs() <= 4 * spacing * double.abs() + 1e-12).all()


@pytest.mark.parametrize("sample", [s for s in DRAWS if not s.is_empty], ids=str)
def test_no_seed_follows_the_generator_of_torch(sample):
    tensors = sample.tensors()
    unseeded = type(sample)(sample.operation, sample.label, sample.arguments, sample.constants | {"seed": None})
    torch.manual_seed(3)
    first, second = as_tuple(unseeded.call(*tensors))[0], as_tuple(unseeded.call(*tensors))[0]
    torch.manual_seed(3)
    again = as_tuple(unseeded.call(*tensors))[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_no_seed_of_standard_normal():
    torch.manual_seed(3)
    first, second = fastvi.standard_normal(5, device=place.device), fastvi.standard_normal(5, device=place.device)
    torch.manual_seed(3)
    assert torch.equal(fastvi.standard_normal(5, device=place.device), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("sample", DRAWS, ids=str)
def test_seeds_as_numbers_and_as_tensors(sample):
    tensors = sample.tensors()
    by_tensor = type(sample)(
        sample.operation, sample.label, sample.arguments, sample.constants | {"seed": place.tensor(SEED)}
    )
    for result, expected in zip(as_tuple(by_tensor.call(*tensors)), as_tuple(sample.call(*tensors)), strict=True):
        assert torch.equal(result, expected)
    assert torch.equal(
        fastvi.standard_normal(5, place.tensor(SEED), device=place.device),
        fastvi.standard_normal(5, SEED, device=place.device),
    )


@pytest.mark.parametrize("sample", [s for s in DRAWS if not s.is_empty], ids=str)
def test_backward_draws_the_noise_of_forward(sample):
    """Also when the seed came from the generator, and when that has moved on since."""
    unseeded = type(sample)(sample.operation, sample.label, sample.arguments, sample.constants | {"seed": None})
    tensors = sample.tensors(requires_grad=True)
    torch.manual_seed(3)
    number = weighted_sum(unseeded.call(*tensors))
    place.rand(7)
    found = torch.autograd.grad(number, tensors, materialize_grads=True)
    torch.manual_seed(3)
    seed = int(place.randint(2**63 - 1, (), dtype=torch.int64))
    seeded = type(sample)(sample.operation, sample.label, sample.arguments, sample.constants | {"seed": seed})
    for result, expected in zip(found, gradients(seeded.twin, tensors), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_seed_changed_in_place_is_noticed():
    """A seed tensor that moves on between forward and backward would give another noise: an error instead."""
    mean, seed = place.zeros(3, 2, requires_grad=True), place.tensor(5)
    z = fastvi.rsample_normal(mean, mean, seed=seed)
    seed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_noise_operator_is_the_noise():
    mean = place.zeros(4, 6)
    noise = normal_noise(place.tensor(SEED), (2, 3), (4, 6), 9, mean)
    assert torch.equal(noise, fastvi.rsample_normal(mean, mean, (2, 3), seed=SEED, row_offset=9))


def test_dtype_and_device():
    assert fastvi.standard_normal(3, device=place.device).dtype == torch.get_default_dtype()
    assert fastvi.standard_normal(3, dtype=torch.float64, device=place.device).dtype == torch.float64
    assert fastvi.standard_normal((3, 2), device="meta").shape == (3, 2)
    assert fastvi.standard_normal((), device=place.device).shape == ()
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert fastvi.standard_normal(3, 0, device=place.device).dtype == torch.float64
    finally:
        torch.set_default_dtype(previous)

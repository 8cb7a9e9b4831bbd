"""Noise on the input: how much of it there is, that it depends on seed and place alone, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from fastvi.autoencoders import corrupt

KINDS = ("gaussian", "masking", "salt-and-pepper")
ROWS, COLUMNS = 400, 250


def grey():
    return torch.full((ROWS, COLUMNS), 0.25)


def within(count, probability, trials):
    """Whether a binomial count is within five standard deviations of its mean."""
    return abs(count - trials * probability) < 5 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_masking_sets_a_share_to_zero(level):
    found = corrupt(grey(), "masking", level, seed=3)
    assert set(found.unique().tolist()) == {0.0, 0.25}
    assert within(int((found == 0).sum()), level, found.numel())
    rows = (found == 0).sum(1).double()  # each row has its own number, with the variance of a binomial
    assert abs(rows.var().item() / (COLUMNS * level * (1 - level)) - 1) < 5 * math.sqrt(2 / (ROWS - 1))


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_salt_and_pepper_are_equally_many(level):
    found = corrupt(grey(), "salt-and-pepper", level, seed=4)
    salt, pepper = int((found == 1).sum()), int((found == 0).sum())
    assert within(salt, 0.5 * level, found.numel())
    assert within(pepper, 0.5 * level, found.numel())
    assert int((found == 0.25).sum()) == found.numel() - salt - pepper


def test_gaussian_noise_has_its_standard_deviation():
    noise = corrupt(grey().double(), "gaussian", 0.3, seed=5) - 0.25
    count = noise.numel()
    assert abs(noise.mean()) < 5 * 0.3 / math.sqrt(count)
    assert abs(noise.square().mean() / 0.09 - 1) < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_depends_on_seed_and_place_alone(kind):
    x = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = corrupt(x, kind, 0.4, seed=6)
    assert whole.shape == x.shape
    assert torch.equal(whole, corrupt(x, kind, 0.4, seed=6))
    parts = [corrupt(x[start : start + 5], kind, 0.4, seed=6, row_offset=start) for start in range(0, 20, 5)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, corrupt(x, kind, 0.4, seed=7))
    changed = whole != x
    assert torch.equal(changed, corrupt(0.5 * x + 0.25, kind, 0.4, seed=6) != 0.5 * x + 0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_seed_the_generator_of_pytorch_rules(kind):
    x = grey()
    torch.manual_seed(0)
    first, second = corrupt(x, kind, 0.4), corrupt(x, kind, 0.4)
    torch.manual_seed(0)
    assert torch.equal(first, corrupt(x, kind, 0.4))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_of_none_and_all(kind):
    x = grey()
    assert torch.equal(corrupt(x, kind, 0.0, seed=1), x)
    if kind == "masking":
        assert torch.equal(corrupt(x, kind, 1, seed=1), torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes_have_the_same_noise(kind, dtype):
    found = corrupt(grey().to(dtype), kind, 0.5, seed=2)
    assert found.dtype is dtype
    expected = corrupt(grey(), kind, 0.5, seed=2)
    torch.testing.assert_close(found.float(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_gradients_pass_through_what_is_kept():
    x = grey().requires_grad_()
    found = corrupt(x, "masking", 0.5, seed=1)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient, (found != 0).float())


@pytest.mark.parametrize("arguments", [
    ((torch.ones(2, 3), "blur", 0.1), ValueError, "corruption must be one of gaussian, masking, salt-and-pepper"),
    ((torch.ones(2, 3), "masking", 1.1), ValueError, "level must be a probability, at most 1, for masking, got 1.1"),
    ((torch.ones(2, 3), "gaussian", -0.1), ValueError, "level must be finite and not negative, got -0.1"),
    ((torch.ones(2, 3), "gaussian", "high"), TypeError, "level must be a float, got 'high'"),
    ((torch.ones(2, 3, dtype=torch.int64), "masking", 0.1), TypeError, "x must be a floating-point tensor of shape"),
    ((torch.tensor(1.0), "masking", 0.1), TypeError, r"x must be a floating-point tensor of shape \(B, ...\)"),
    (([1.0], "masking", 0.1), TypeError, "x must be a floating-point tensor of shape .*, got an object of type list"),
], ids=["kind", "share", "negative", "word", "integers", "a number", "a list"])  # fmt: skip
def test_refusals(arguments):
    given, error, words = arguments
    with pytest.raises(error, match=words):
        corrupt(*given)

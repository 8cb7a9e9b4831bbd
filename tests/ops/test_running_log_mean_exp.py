"""LogMeanExp: any way of cutting the samples gives what they give at once."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastvi
from fastvi import LogMeanExp
from support.place import place

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""Another order of the same float64 operations."""

SPECIAL = [-math.inf, math.inf, math.nan, 700.0, -700.0, 0.0]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.integers(0, 1),
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from(SPECIAL)), max_size=4),
    st.integers(0, 2**31),
)
def test_chunks_are_the_whole(lengths, dim, special, seed):
    generator = torch.Generator().manual_seed(seed)
    whole = 20 * torch.randn(sum(lengths), 3, generator=generator, dtype=torch.float64).to(place.device)
    for index, value in special:
        whole.view(-1)[index % whole.numel()] = value
    running, merged = LogMeanExp(dim), LogMeanExp(dim)
    for chunk in whole.split(lengths):
        chunk = chunk if dim == 0 else chunk.t()
        assert running.update(chunk) is running
        assert merged.merge(LogMeanExp(dim).update(chunk)) is merged
    for streamed in (running, merged):
        assert streamed.count == len(whole)
        torch.testing.assert_close(streamed.value, fastvi.log_mean_exp(whole), **ROUNDING, equal_nan=True)
        torch.testing.assert_close(streamed.ess, fastvi.effective_sample_size(whole), **ROUNDING, equal_nan=True)


def test_float32_in_float32_out_but_float64_between():
    """10^4 chunks of equal weights: a float32 running sum would have lost them."""
    running = LogMeanExp()
    for _ in range(10_000):
        running.update(place.full((1, 2), 100.0))
    assert running.value.dtype == running.ess.dtype == torch.float32
    torch.testing.assert_close(running.value, place.full((2,), 100.0))
    torch.testing.assert_close(running.ess, place.full((2,), 1e4))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float64, 1e14),
        (torch.float64, 1e16),
        (torch.float64, 1e20),
        (torch.float64, 1e300),
        (torch.float32, 1e38),
        (torch.bfloat16, 1e38),
        (torch.float16, 6e4),
    ],
)
def test_equal_weights_of_any_size_count_in_full(dtype, size, sign):
    """n equal weights have the effective sample size n, and their own logarithm as log-mean-exp."""
    x = place.full((10, 2), sign * size, dtype=dtype)
    running = LogMeanExp()
    for chunk in x.split(3):
        running.update(chunk)
    assert running.ess.tolist() == pytest.approx([10.0, 10.0], rel=1e-15)
    assert torch.equal(running.value, x[0])
    assert LogMeanExp().update(x[:1]).merge(LogMeanExp().update(x[1:2])).ess.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("place_of_origin", [0.0, 1e15, -1e15, 4e15])
def test_the_effective_sample_size_sees_differences_alone(place_of_origin):
    """Log-weights -2 k from any origin, k below 6: (sum_k e^-2k)^2 / sum_k e^-4k, by geometric series."""
    steps = -2.0 * torch.arange(6, dtype=torch.float64).to(place.device)
    expected = (-math.expm1(-12.0) / -math.expm1(-2.0)) ** 2 / (-math.expm1(-24.0) / -math.expm1(-4.0))
    for order in (range(6), reversed(range(6)), (3, 0, 5, 1, 4, 2)):
        running = LogMeanExp()
        for k in order:
            running.update(place_of_origin + steps[k : k + 1])
        assert float(running.ess) == pytest.approx(expected, rel=1e-14)


def test_weights_of_zero_beside_large_ones():
    """An empty chunk before and after leaves nothing behind, whatever the others' size."""
    empty, full = place.full((3, 1), -math.inf, dtype=torch.float64), place.full((2, 1), -1e200, dtype=torch.float64)
    running = LogMeanExp().update(empty).update(full).update(empty)
    assert (running.count, float(running.ess), float(running.value)) == (8, 2.0, -1e200)


def test_nothing_is_differentiated():
    running = LogMeanExp().update(place.zeros(3, 2, requires_grad=True))
    assert not running.value.requires_grad
    assert not running.ess.requires_grad


def test_merging_leaves_the_other_alone():
    first, second = LogMeanExp().update(place.zeros(3, 2)), LogMeanExp().update(place.ones(3, 2))
    before = second.value.clone(), second.ess.clone()
    first.merge(second).update(place.ones(1, 2))
    empty = LogMeanExp().merge(second)
    empty.update(place.zeros(1, 2))
    assert second.count == 3
    assert torch.equal(second.value, before[0])
    assert torch.equal(second.ess, before[1])
    assert first.merge(LogMeanExp()).count == 7


def test_pickle_and_copy():
    running = LogMeanExp(1).update(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).to(place.device))
    for twin in (pickle.loads(pickle.dumps(running)), copy.deepcopy(running)):
        assert twin.count == running.count
        assert torch.equal(twin.update(place.zeros(2, 1)).value, copy.copy(running).update(place.zeros(2, 1)).value)


def test_errors():
    running = LogMeanExp()
    for name in ("value", "ess"):
        with pytest.raises(ValueError, match="LogMeanExp: no chunk was seen yet; call update first"):
            getattr(running, name)
    with pytest.raises(TypeError, match=r"LogMeanExp.update: chunk must be a torch.Tensor, got list"):
        running.update([1.0])
    with pytest.raises(TypeError, match=r"LogMeanExp.update: chunk has dtype torch.int64"):
        running.update(place.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"LogMeanExp.update: chunk has shape \(0, 2\)"):
        running.update(place.ones(0, 2))
    with pytest.raises(ValueError, match=r"LogMeanExp.update: dim is 3"):
        LogMeanExp(3).update(place.ones(3, 2))
    with pytest.raises(TypeError, match=r"LogMeanExp.merge: other must be a LogMeanExp, got Tensor"):
        running.merge(place.ones(3))
    running.update(place.ones(3, 2))
    with pytest.raises(ValueError, match=r"LogMeanExp: got columns of shape \(4,\), expected \(2,\)"):
        running.update(place.ones(3, 4))
    assert running.count == 3

"""Plans of rows and axes against NumPy's own broadcasting: every element a kernel would read is the right one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from fastvi import _native


class Plan:
    """A plan of the native code: where and how kernels read operands, and write their gradients."""

    def __init__(self, arrays: list[np.ndarray], sample_rank: int | None = None) -> None:
        layouts = tuple((array.shape, element_strides(array)) for array in arrays)
        self.__dict__ |= _native.module().plan_rows("operation", list(names_of(arrays)), layouts, sample_rank)


def element_strides(array: np.ndarray) -> tuple[int, ...]:
    return tuple(stride // array.itemsize for stride in array.strides)


def names_of(arrays: list[np.ndarray]) -> tuple[str, ...]:
    return tuple("abcdefgh"[: len(arrays)])


def read_as_planned(arrays: list[np.ndarray], sample_rank: int | None) -> list[np.ndarray]:
    """Each operand as the kernels see it: element (k, b, d) at its address, k strides and b strides and d on."""
    plan = Plan(arrays, sample_rank)
    views = []
    for array, (sample_stride, row_stride), copy in zip(arrays, plan.strides, plan.copies, strict=True):
        held = array if copy is None else np.ascontiguousarray(np.broadcast_to(array, copy))
        strides = tuple(stride * held.itemsize for stride in (sample_stride, row_stride, 1))
        views.append(as_strided(held, plan.extent, strides))
    return views


@st.composite
def operands(draw: st.DrawFn) -> list[np.ndarray]:
    """Arrays that broadcast, in any memory layout but of non-negative strides, as PyTorch's are."""
    full = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5]), min_size=1, max_size=5))
    arrays = []
    for _ in range(draw(st.integers(1, 4))):
        rank = draw(st.integers(1, len(full)))
        shape = [1 if draw(st.booleans()) and draw(st.booleans()) else size for size in full[len(full) - rank :]]
        array = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
        kind = draw(st.sampled_from(["plain", "permuted", "gaps", "expanded"]))
        if kind == "permuted":
            order = draw(st.permutations(range(rank)))
            array = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
        elif kind == "gaps":
            axis = draw(st.integers(0, rank - 1))
            array = np.repeat(array, 2, axis)[tuple(slice(None, None, 2 if i == axis else 1) for i in range(rank))]
        elif kind == "expanded" and array.size:
            axis = draw(st.integers(0, rank - 1))
            array = np.broadcast_to(array.take([0], axis), shape)
        arrays.append(array)
    return arrays


@settings(max_examples=200)
@given(operands(), st.data())
def test_kernels_read_what_numpy_broadcasts(arrays, data):
    full = np.broadcast_shapes(*(array.shape for array in arrays))
    sample_rank = data.draw(st.none() | st.integers(0, len(full) - 1))
    plan = Plan(arrays, sample_rank)
    assert (*plan.leading, plan.extent[2]) == full
    assert math.prod(plan.extent) == math.prod(full)
    if sample_rank is not None:
        assert plan.extent[0] == math.prod(full[:sample_rank])
    if math.prod(full) == 0:
        return
    for array, view in zip(arrays, read_as_planned(arrays, sample_rank), strict=True):
        np.testing.assert_array_equal(view.reshape(full), np.broadcast_to(array, full))


@settings(max_examples=200)
@given(operands(), st.data())
def test_gradients_are_sums_over_what_was_broadcast(arrays, data):
    """Written as planned, samples summed or not, then summed to the operand's shape."""
    full = np.broadcast_shapes(*(array.shape for array in arrays))
    sample_rank = data.draw(st.none() | st.integers(0, len(full) - 1))
    plan = Plan(arrays, sample_rank)
    upstream = np.arange(math.prod(full), dtype=np.float64).reshape(full)
    for array, (shape, sums_samples, broadcast) in zip(arrays, plan.gradients, strict=True):
        written = upstream.reshape(plan.extent)
        written = (written.sum(0) if sums_samples else written).reshape(shape)
        assert broadcast == (shape != array.shape)
        found = sum_to_shape(written, array.shape)
        np.testing.assert_array_equal(found, sum_to_shape(upstream, array.shape))


def sum_to_shape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = array.sum(tuple(range(array.ndim - len(shape))))
    ones = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return array.sum(ones, keepdims=True)


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4))
def test_broadcast_shapes_are_numpys(shapes):
    arrays = [np.empty(shape) for shape in shapes]
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError, match="operation: shapes do not broadcast: got a "):
            Plan(arrays)
    else:
        plan = Plan(arrays)
        assert (*plan.leading, plan.extent[2]) == expected


def test_dense_operands_are_one_block():
    """No copy, no samples: all rows in one go; a broadcast one has a sample stride of zero."""
    x, mean = np.empty((7, 3, 5)), np.empty((3, 5))
    plan = Plan([x])
    assert plan.extent == (1, 21, 5)
    plan = Plan([x, mean])
    assert plan.extent == (7, 3, 5)
    assert plan.strides == ((15, 5), (0, 5))
    assert plan.copies == (None, None)


def test_only_what_must_be_is_copied():
    x = np.empty((7, 5, 3)).transpose(0, 2, 1)  # columns not contiguous
    row = np.empty((3, 1))  # one number a row
    dense = np.empty((7, 3, 5))
    plan = Plan([x, row, dense])
    assert plan.copies == ((7, 3, 5), (3, 5), None)


def test_errors():
    with pytest.raises(ValueError, match="operation: b has no dimension"):
        Plan([np.empty((2, 3)), np.empty(())])
    with pytest.raises(ValueError, match=r"operation: shapes do not broadcast: got a \(2, 3\), b \(4,\)"):
        Plan([np.empty((2, 3)), np.empty(4)])

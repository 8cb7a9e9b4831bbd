"""How arrays of any strides are presented to the native kernels: pure arithmetic on shapes and strides.

Operations that sum over the last dimension see their operands as ``(samples, rows, columns)``: leading dimensions are
broadcast, then merged where every operand's strides allow it. Plans depend on shapes and strides alone and are cached.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

Shape = tuple[int, ...]


def broadcast_shapes(operation: str, names: tuple[str, ...], shapes: tuple[Shape, ...]) -> Shape:
    """The common shape by NumPy's rules.

    Raises
    ------
    ValueError
        If the shapes do not broadcast; the message names every argument.
    """
    rank = max(len(shape) for shape in shapes)
    result = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if result[axis] not in (1, size):
                    given = ", ".join(f"{name} {tuple(s)}" for name, s in zip(names, shapes, strict=True))
                    raise ValueError(f"{operation}: shapes do not broadcast: got {given}")
                result[axis] = size
    return tuple(result)


class GradientPlan(NamedTuple):
    """Where a kernel puts an operand's gradient."""

    shape: Shape
    sums_samples: bool  # the operand has no samples of its own
    like_operand: bool  # the shape is the operand's, which is contiguous
    broadcast: bool  # what is left must be summed to the operand's shape


class RowPlan(NamedTuple):
    """Operands as ``(samples, rows, columns)``.

    ``strides[i]`` are operand i's (sample, row) strides, after it was copied, contiguous, to the shape ``copies[i]``
    where that is not None.
    """

    leading: Shape
    extent: tuple[int, int, int]
    strides: tuple[tuple[int, int], ...]
    copies: tuple[Shape | None, ...]
    gradients: tuple[GradientPlan, ...]


def contiguous_strides(shape: Shape) -> Shape:
    """Strides, in elements, of a C-contiguous array."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)


def expanded_strides(shape: Shape, strides: Shape, target: Shape) -> list[int]:
    """Strides of an array broadcast to ``target``."""
    padded = [0] * (len(target) - len(shape)) + list(strides)
    sizes = [1] * (len(target) - len(shape)) + list(shape)
    return [0 if size == 1 else stride for size, stride in zip(sizes, padded, strict=True)]


def _merge(sizes: list[int], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring axes that every operand steps through evenly; drop axes of size one."""
    merged_sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        if merged_sizes and all(m[-1] == s[axis] * size for m, s in zip(merged, strides, strict=True)):
            merged_sizes[-1] *= size
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[axis]
        else:
            merged_sizes.append(size)
            for m, s in zip(merged, strides, strict=True):
                m.append(s[axis])
    return merged_sizes, merged


def _split(leading: Shape, samples: int, rows: int) -> int:
    """How many leading axes make up the samples."""
    if samples == 1:
        return 0
    split = 1
    while math.prod(leading[:split]) != samples or math.prod(leading[split:]) != rows:
        split += 1
    return split


@functools.lru_cache(maxsize=4096)
def plan_rows(
    operation: str, names: tuple[str, ...], layouts: tuple[Shape, ...], sample_rank: int | None = None
) -> RowPlan:
    """Plan for operands with the given ``(shape, strides)`` pairs, flattened into ``layouts``.

    ``sample_rank`` fixes how many leading axes are samples; None merges as far as the strides allow.

    Raises
    ------
    ValueError
        If an operand has no dimension, or the shapes do not broadcast.
    """
    shapes, strides = layouts[::2], layouts[1::2]
    for name, shape in zip(names, shapes, strict=True):
        if len(shape) == 0:
            raise ValueError(f"{operation}: {name} has no dimension; expected the event in the last one")
    full = broadcast_shapes(operation, names, shapes)
    leading, columns = full[:-1], full[-1]

    copies: list[Shape | None] = []
    leading_strides: list[list[int]] = []
    for shape, stride in zip(shapes, strides, strict=True):
        copy: Shape | None = None
        if shape[-1] != columns or (columns > 1 and stride[-1] != 1):
            copy = (*shape[:-1], columns)  # the event must be contiguous: copy it, but broadcast the rest
            shape, stride = copy, contiguous_strides(copy)
        copies.append(copy)
        leading_strides.append(expanded_strides(shape[:-1], stride[:-1], leading))

    if sample_rank is not None:
        groups = [
            (list(leading[:sample_rank]), 0, sample_rank),
            (list(leading[sample_rank:]), sample_rank, len(leading)),
        ]
        merged_groups = [_merge(sizes, [s[a:b] for s in leading_strides]) for sizes, a, b in groups]
        fits = all(len(sizes) <= 1 for sizes, _ in merged_groups)
        sizes = [math.prod(leading[:sample_rank]), math.prod(leading[sample_rank:])]
        merged = [
            [(m[0] if m else 0) for m in (group[1][i] for group in merged_groups)] for i in range(len(leading_strides))
        ]
    else:
        sizes, merged = _merge(list(leading), leading_strides)
        fits = len(sizes) <= 2
        sizes = [1] * (2 - len(sizes)) + sizes
        merged = [[0] * (2 - len(m)) + m for m in merged]
    if not fits:  # rare: copy everything that is not already laid out as the result is
        dense = contiguous_strides(full)
        copies = [
            copy if stride == list(dense[:-1]) else full for copy, stride in zip(copies, leading_strides, strict=True)
        ]
        inner = math.prod(leading) if sample_rank is None else math.prod(leading[sample_rank:])
        sizes = [1 if sample_rank is None else math.prod(leading[:sample_rank]), inner]
        merged = [[inner * columns, columns] for _ in copies]
    split = _split(leading, sizes[0], sizes[1]) if sample_rank is None else sample_rank
    gradients = []
    for shape, stride in zip(shapes, strides, strict=True):
        has_samples = math.prod(shape[: max(split + len(shape) - len(full), 0)]) != 1
        sums_samples = sizes[0] != 1 and not has_samples
        found = (*(1,) * split, *leading[split:], columns) if sums_samples else full
        like_operand = sizes[0] != 0 and shape == found and stride == contiguous_strides(shape)
        gradients.append(GradientPlan(found, sums_samples, like_operand, shape != found))
    return RowPlan(
        leading,
        (sizes[0], sizes[1], columns),
        tuple((m[0], m[1]) for m in merged),
        tuple(copies),
        tuple(gradients),
    )


@functools.lru_cache(maxsize=4096)
def plan_axis(operation: str, shape: Shape, dim: int) -> tuple[tuple[int, int, int], Shape]:
    """``((outer, count, inner), shape without dim)`` for a reduction over ``dim``.

    Raises
    ------
    ValueError
        If ``dim`` is out of range or its size is zero.
    """
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"{operation}: dim is {dim}, expected one of the {len(shape)} dimensions of {tuple(shape)}")
    dim %= len(shape)
    if shape[dim] == 0:
        raise ValueError(f"{operation}: dimension {dim} of {tuple(shape)} is empty; expected at least one element")
    extent = (math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :]))
    return extent, (*shape[:dim], *shape[dim + 1 :])

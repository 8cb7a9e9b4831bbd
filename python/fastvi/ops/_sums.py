"""Sums with the same bits for any number of threads, which PyTorch's sums and matrix-vector products do not promise.

PyTorch cuts a long sum to a single number among its threads, and a sum over rows into shares of columns whose ends are
added up in another order than their middle; what a matrix product does is up to the library that computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fastvi.ops._backends import kernels


def _sum_axis(tensor: Tensor, extent: tuple[int, int, int], shape: Sequence[int], weights: Tensor | None) -> Tensor:
    if tensor.numel() == 0:
        return tensor.new_zeros(shape)
    tensor = tensor.contiguous()
    weights = None if weights is None else weights.contiguous()
    out = tensor.new_empty(shape)
    kernels(tensor).axis_sum(extent, tensor.data_ptr(), 0 if weights is None else weights.data_ptr(), out.data_ptr())
    return out


def sum_over(tensor: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Sum over one dimension, of which ``weights`` may give each place a factor: shape of ``tensor`` without it."""
    shape = tensor.shape
    dim %= len(shape)
    extent = (math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :]))
    return _sum_axis(tensor, extent, (*shape[:dim], *shape[dim + 1 :]), weights)


def sum_to_shape(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum what an operand of ``shape`` was broadcast over, as ``Tensor.sum_to_size``."""
    if tensor.shape == tuple(shape):
        return tensor
    sizes = list(tensor.shape)
    target = [1] * (len(sizes) - len(shape)) + list(shape)
    summed = [size != wanted for size, wanted in zip(sizes, target, strict=True)]
    end = len(sizes)
    while True:  # the last group of neighbouring axes that are summed, until there is none
        while end > 0 and not summed[end - 1]:
            end -= 1
        if end == 0:
            return tensor.reshape(tuple(shape))
        start = end
        while start > 0 and summed[start - 1]:
            start -= 1
        extent = (math.prod(sizes[:start]), math.prod(sizes[start:end]), math.prod(sizes[end:]))
        sizes[start:end] = [1] * (end - start)
        tensor = _sum_axis(tensor, extent, sizes, None)
        end = start

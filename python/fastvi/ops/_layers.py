"""What the operations with matrix products are made of: layers, the memory of these, and both passes over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi._perceptron import INDICES
from fastvi.ops._precision import HALF_DTYPES, SUPPORTED_DTYPES, compute_dtype, widen
from fastvi.ops._private import autocast_active, known_rows

MAX_LAYERS = 4
"""Layers of one operation; a deeper perceptron is several, one after the other."""

_KEEP_SLOPE = frozenset({"silu", "gelu"})
"""Those whose slope does not follow from their value: the forward pass keeps it."""

Layer = tuple[Tensor, Tensor | None]


class Slot(NamedTuple):
    """Memory of a layer that is activated: its values, shape (rows, width), and its slopes where they are kept."""

    value: Tensor
    slope: Tensor | None


def layers_of(parameters: Sequence[Any]) -> list[Layer]:
    """The layers that were given of (weight, bias, weight, bias, ...)."""
    pairs = zip(parameters[::2], parameters[1::2], strict=True)
    return [(weight, bias) for weight, bias in pairs if weight is not None]


def parameters_of(layers: Sequence[Layer]) -> list[Tensor | None]:
    """The layers as the operators take them: (weight, bias, weight, bias, ...), None where there are none."""
    found: list[Tensor | None] = [each for layer in layers for each in layer]
    return found + [None] * (2 * MAX_LAYERS - len(found))


def widened(layers: Sequence[Layer]) -> list[Layer]:
    """The layers in the dtype of the arithmetic."""
    return [(widen(weight), widen(bias)) for weight, bias in layers]


def kept_columns(layers: Sequence[Layer], num_active: int, activation: str) -> int:
    copies = 2 if activation in _KEEP_SLOPE else 1
    return copies * sum([weight.shape[0] for weight, _ in layers[:num_active]])


def slots_in(memory: Tensor, rows: int, layers: Sequence[Layer], num_active: int, activation: str) -> list[Slot]:
    """The places of the activated layers in the memory that the backward pass keeps."""
    slots, offset, keeps_slope = [], 0, activation in _KEEP_SLOPE
    for weight, _ in layers[:num_active]:
        width = weight.shape[0]
        value = memory.as_strided((rows, width), (width, 1), offset)
        offset += rows * width
        slope = None
        if keeps_slope:
            slope = memory.as_strided((rows, width), (width, 1), offset)
            offset += rows * width
        slots.append(Slot(value, slope))
    return slots


def packed(memory: Tensor) -> Tensor:
    """What was kept, laid out as :func:`slots_in` reads it: hooks on saved tensors may have changed that."""
    as_it_was = memory.is_contiguous() and memory.storage_offset() == 0
    return memory if as_it_was else memory.clone(memory_format=torch.contiguous_format)


def passing_slots(x: Tensor, rows: int, layers: Sequence[Layer], num_active: int) -> list[Slot]:
    """Places of which each layer's is taken again by the layer after the next: where nothing is kept."""
    widths = [weight.shape[0] for weight, _ in layers[:num_active]]
    size = rows * max(widths, default=0)
    memory = x.new_empty(min(2, num_active) * size)
    return [Slot(memory.as_strided((rows, w), (w, 1), i % 2 * size), None) for i, w in enumerate(widths)]


PRODUCT_DTYPE = "ScalarType? product_dtype"
"""How the operations with matrix products declare the dtype that their factors are rounded to; None: they are not."""


COMPILED_ROWS = 100
"""Up to so many rows of the batch torch.compile makes a faster program of the formula than of the operator.

A call of an operator takes some 100 us there, forward and backward, and the compiler fuses bias and activation itself.
"""


def compiles_formula(x: Tensor, *arguments: Any) -> bool:
    """Whether torch.compile is given the formula of an operation whose last argument is the products' dtype.

    Exported programs keep the operators, which other programs can be told from.
    """
    if not x.is_cpu or x.dtype in HALF_DTYPES or arguments[-1] is not None or torch.compiler.is_exporting():
        return False
    rows = known_rows(x)
    return rows is not None and rows <= COMPILED_ROWS


def matrix_product(
    left: Tensor, right: Tensor, product_dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """``left @ right``, whose factors may be rounded to ``product_dtype`` first: the result is float32 then.

    Whatever region of autocast it is called in: that leaves a product alone that is given its output.
    """
    if product_dtype is not None:
        return _narrow_product(left.to(product_dtype), right.to(product_dtype), out)
    if out is None:
        if not autocast_active():
            return torch.mm(left, right)
        out = left.new_empty((left.shape[0], right.shape[1]))
    return torch.mm(left, right, out=out)


def _narrow_product(left: Tensor, right: Tensor, out: Tensor | None) -> Tensor:
    """The product of factors of half precision, in float32. PyTorch gives its sums unrounded on CUDA alone."""
    if left.is_cuda:
        wide = torch.mm(left, right, out_dtype=torch.float32)
        return wide if out is None else out.copy_(wide)
    narrow = torch.mm(left, right, out=left.new_empty((left.shape[0], right.shape[1])))
    return narrow.float() if out is None else out.copy_(narrow)


def hidden_values(
    module: Any,
    x: Tensor,
    layers: Sequence[Layer],
    slots: Sequence[Slot],
    activation: str,
    product_dtype: torch.dtype | None,
    copy: Tensor | None = None,
) -> Tensor:
    """The values of the activated layers, written to their slots; the last one, also to ``copy``, is returned."""
    activate, index, last = module.forward.activate_layer, INDICES[activation], len(slots) - 1
    for i, (value, slope) in enumerate(slots):
        weight, bias = layers[i]
        matrix_product(x, weight.t(), product_dtype, out=value)
        activate(value, index, bias, slope, copy if i == last else None)
        x = value
    return x


def hidden_gradients(
    module: Any,
    gradient: Tensor,
    x: Tensor,
    layers: Sequence[Layer],
    slots: Sequence[Slot],
    activation: str,
    needs: Sequence[bool],
    product_dtype: torch.dtype | None,
    scale: Tensor | None = None,
    scaled: Tensor | None = None,
) -> list[Tensor | None]:
    """The gradients by x and by each weight and bias, given that by the last slot's value, which is overwritten.

    ``scale`` multiplies the rows of the gradient first; ``scaled`` takes the rows of the last value, multiplied too.
    """
    index = INDICES[activation]
    found: list[Tensor | None] = [None] * (1 + 2 * len(slots))
    for i in range(len(slots) - 1, -1, -1):
        value, slope = slots[i]
        found[2 + 2 * i] = module.layer_gradient(gradient, index, value, slope, scale, scaled, needs[2 + 2 * i])
        scale = scaled = None
        before = x if i == 0 else slots[i - 1].value
        factor = gradient if product_dtype is None else gradient.to(product_dtype)  # two products take it
        if needs[1 + 2 * i]:
            found[1 + 2 * i] = matrix_product(factor.t(), before, product_dtype)
        if not any(needs[: 1 + 2 * i]):
            return found
        gradient = matrix_product(factor, layers[i][0], product_dtype)
    found[0] = gradient
    return found


def as_rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def agree(first: Tensor, others: Sequence[Any]) -> bool:
    """Whether all tensors that are given have one dtype that has kernels, and are on one device."""
    dtype, device = first.dtype, first.device
    if dtype not in SUPPORTED_DTYPES:
        return False
    return all(other is None or (other.dtype is dtype and other.device == device) for other in others)


def rounded(gradients: Sequence[Tensor | None], dtype: torch.dtype, count: int) -> tuple[Tensor | None, ...]:
    """In the dtype of the operands; None for the places of layers that were not given."""
    if dtype is not compute_dtype(dtype):
        gradients = [None if gradient is None else gradient.to(dtype) for gradient in gradients]
    return (*gradients, *[None] * (count - len(gradients)))


PARAMETERS = tuple(
    declared for i in range(MAX_LAYERS) for declared in (f"Tensor{'?' if i else ''} weight_{i}", f"Tensor? bias_{i}")
)
PUBLIC_NAMES = {
    f"{name}_{i}": f"{names}[{i}]"
    for i in range(MAX_LAYERS)
    for name, names in (("weight", "weights"), ("bias", "biases"))
}

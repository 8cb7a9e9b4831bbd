"""Derivatives of the gradients of the operations with layers, by matrix products and passes over their results.

A gradient's products with outer gradients are, summed, the derivative of the result in the direction of these, times
the upstream gradient: one number. Its derivatives are what is wanted here. The direction is carried up through the
layers, where the upstream gradient comes down to meet it; what they give together comes down once more. Values of the
layers are those that the forward pass kept.

Activations take part whose slope and its derivative follow from their value; for the others, for half precision, and
for products of rounded factors, the functions return NotImplemented: the plain formula knows those derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastvi._perceptron import INDICES
from fastvi.ops._backends import MODULES, sum_over, sum_to_shape
from fastvi.ops._layers import Layer, agree, as_rows, kept_columns, layers_of, matrix_product, packed, slots_in
from fastvi.ops._precision import HALF_DTYPES

Optionals: TypeAlias = Sequence[Tensor | None]

BENDS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "tanh": lambda factor, value: factor.mul_(value).mul_(-2.0),
    "sigmoid": lambda factor, value: factor.addcmul_(factor, value, value=-2.0),
    "relu": None,
    "softplus": lambda factor, value: factor.mul_(torch.exp(-value)),
    "elu": lambda factor, value: factor.masked_fill_(value >= 0.0, 0.0),
}
"""The derivative of an activation's slope, divided by the slope, as a function of its value: multiplied to a factor,
which is overwritten. None where it is zero."""


def _add_product(sum_: Tensor | None, left: Tensor, right: Tensor, sign: float = 1.0) -> Tensor:
    """``sum_ + sign * left @ right`` in the memory of ``sum_``, if that is given; autocast leaves it alone."""
    if sum_ is not None:
        return sum_.addmm_(left, right, alpha=sign)
    product = matrix_product(left, right)
    return product if sign == 1.0 else product.mul_(sign)


def _along(direction: Tensor | None, x: Tensor, layer: Layer, by_weight: Tensor | None, by_bias: Tensor | None) -> Any:
    """The derivative of ``x @ weight.T + bias`` in a direction of x, of the weight and of the bias; None for zero."""
    found = None if direction is None else matrix_product(direction, layer[0].t())
    if by_weight is not None:
        found = _add_product(found, x, by_weight.t())
    if by_bias is not None:
        if found is not None:
            return found.add_(by_bias)
        found = by_bias.expand((x.shape[0], by_bias.shape[0])).clone(memory_format=torch.contiguous_format)
    return found


class _Hidden:
    """The layers with an activation. Lists of x, weight, bias, weight and so on: outer gradients, what is wanted."""

    def __init__(
        self,
        x: Tensor,
        layers: Sequence[Layer],
        memory: Tensor,
        activation: str,
        outer: Optionals,
        wanted: Sequence[bool],
    ) -> None:
        count = len(layers)
        slots = slots_in(packed(memory), x.shape[0], layers, count, activation)
        self.layer_gradient = MODULES.of(x).layer_gradient
        self.index, self.bend = INDICES[activation], BENDS[activation]
        self.layers, self.outer, self.wanted = layers, outer, wanted
        self.values = [x, *[slot.value for slot in slots]]
        self.first = next((max(i - 1, 0) // 2 for i, grad in enumerate(outer) if grad is not None), count)
        self.meets = self.first < count and any(wanted)
        """Whether the gradient by the last layer's values is needed, because some direction reaches these layers."""
        self.by_values: list[Tensor | None] = [None] * count
        self.bent: list[Tensor | None] = [None] * count
        self.found: list[Tensor | None] = [None] * (1 + 2 * count)

    def _times_slope(self, i: int, factor: Tensor, by_bias: bool = False) -> Tensor | None:
        """Multiply by the slopes of a layer, in place; the sum over rows, where it is asked for."""
        result: Tensor | None = self.layer_gradient(factor, self.index, self.values[i + 1], None, None, None, by_bias)
        return result

    def up(self, gradient: Tensor | None) -> Tensor | None:
        """The direction of the last layer's values, None for zero; ``gradient``, that by them, is overwritten."""
        count, first = len(self.layers), self.first
        gradients: list[Tensor | None] = [None] * count
        for i in range(count - 1, first - 1, -1):
            if gradient is None:
                break
            self._times_slope(i, gradient)
            gradients[i] = gradient
            gradient = matrix_product(gradient, self.layers[i][0]) if i > first else None
        direction = self.outer[0]
        for i in range(first, count):
            by_weight, by_bias = self.outer[1 + 2 * i], self.outer[2 + 2 * i]
            along: Tensor = _along(direction, self.values[i], self.layers[i], by_weight, by_bias)
            gradient = gradients[i]
            if gradient is not None:
                if direction is not None and self.wanted[1 + 2 * i]:
                    self.found[1 + 2 * i] = matrix_product(gradient.t(), direction)
                if by_weight is not None and any(self.wanted[: 1 + 2 * i]):
                    self.by_values[i] = matrix_product(gradient, by_weight)
                if self.bend is not None and any(self.wanted[: 3 + 2 * i]):
                    self.bent[i] = self.bend(along * gradient, self.values[i + 1])
            self._times_slope(i, along)
            direction = along
        return direction

    def down(self, gradient: Tensor | None) -> list[Tensor | None]:
        """What is wanted of x and of each weight and bias; ``gradient``, by the last layer's values, is overwritten."""
        for i in range(len(self.layers) - 1, -1, -1):
            bent, wants_bias = self.bent[i], self.wanted[2 + 2 * i]
            if gradient is not None:
                self.found[2 + 2 * i] = self._times_slope(i, gradient, wants_bias and bent is None)
            if bent is not None:
                gradient = bent if gradient is None else gradient.add_(bent)
                if wants_bias:
                    self.found[2 + 2 * i] = sum_over(gradient, 0)
            if gradient is not None and self.wanted[1 + 2 * i]:
                self.found[1 + 2 * i] = _add_product(self.found[1 + 2 * i], gradient.t(), self.values[i])
            if not any(self.wanted[: 1 + 2 * i]):
                return self.found
            below = self.by_values[i]
            gradient = below if gradient is None else _add_product(below, gradient, self.layers[i][0])
        self.found[0] = gradient
        return self.found


def _fits(activation: str, product_dtype: torch.dtype | None, first: Tensor, others: Sequence[Any]) -> bool:
    """Whether the passes may run: nothing watches or records, and the numbers are those that they are made for."""
    return (
        activation in BENDS
        and product_dtype is None
        and first.dtype not in HALF_DTYPES
        and MODULES.cpu.runs_backward(first, *others)
        and agree(first, others)
    )


def _complete(found: Sequence[Tensor | None], saved: Sequence[Any], wanted: Sequence[bool]) -> list[Tensor | None]:
    """What is wanted, zeros where nothing contributes to it."""
    result: list[Tensor | None] = [None] * len(wanted)
    for i, (tensor, want) in enumerate(zip(saved, wanted, strict=False)):
        if want:
            grad = found[i] if i < len(found) else None
            result[i] = tensor.new_zeros(tensor.shape) if grad is None else grad.view(tensor.shape)
    return result


def of_mlp(outer: Optionals, saved: Sequence[Any], constants: tuple[Any, ...], wanted: Sequence[bool]) -> Any:
    """``Operation.second`` of ``mlp``."""
    upstream, x, *parameters, memory = saved
    activation, activate_last, product_dtype = constants
    if not _fits(activation, product_dtype, x, (*outer, *saved)):
        return NotImplemented
    layers = layers_of(parameters)
    num_active = len(layers) - (not activate_last)
    inputs, gradient = as_rows(x), as_rows(upstream)
    place = 1 + 2 * num_active
    if memory.numel() != inputs.shape[0] * kept_columns(layers, num_active, activation):
        return NotImplemented
    by_x = None if outer[0] is None else as_rows(outer[0])
    of_hidden = wanted[1 : 1 + place]
    hidden = _Hidden(inputs, layers[:num_active], memory, activation, (by_x, *outer[1:place]), of_hidden)
    if activate_last:
        along = hidden.up(gradient.clone(memory_format=torch.contiguous_format) if hidden.meets else None)
        found = hidden.down(None)
    else:
        by_weight, by_bias = outer[place : place + 2]
        below = hidden.up(matrix_product(gradient, layers[-1][0]) if hidden.meets else None)
        along = _along(below, hidden.values[-1], layers[-1], by_weight, by_bias) if wanted[0] else None
        by_last = None
        if by_weight is not None and any(of_hidden):
            by_last = matrix_product(gradient, by_weight)
        found = hidden.down(by_last)
        if below is not None and wanted[1 + place]:
            found.append(matrix_product(gradient.t(), below))
    return _complete((along, *found), saved, wanted)


def of_mlp_bernoulli_log_prob(
    outer: Optionals, saved: Sequence[Any], constants: tuple[Any, ...], wanted: Sequence[bool]
) -> Any:
    """``Operation.second`` of ``mlp_bernoulli_log_prob``; not for its gradient by x, which the logits are."""
    upstream, z, x, *parameters, memory, residual = saved
    activation, product_dtype = constants
    if outer[1] is not None or not _fits(activation, product_dtype, z, (*outer, *saved)):
        return NotImplemented
    layers, leading, rows = layers_of(parameters), upstream.shape, upstream.numel()
    weight, num_active = layers[-1][0], len(layers) - 1
    if memory.numel() != rows * kept_columns(layers, num_active, activation) or residual.shape != (rows, x.shape[-1]):
        return NotImplemented
    shape, wide, place = (*leading, z.shape[-1]), (*leading, x.shape[-1]), 2 + 2 * num_active
    inputs, scale = as_rows(z.expand(shape)), upstream.reshape(rows, 1)
    by_z = None if outer[0] is None else as_rows(outer[0].expand(shape))
    of_hidden, (wants_weight, wants_bias) = [wanted[1], *wanted[3 : 1 + place]], wanted[1 + place : 3 + place]
    hidden = _Hidden(inputs, layers[:num_active], memory, activation, (by_z, *outer[2:place]), of_hidden)
    # As in the backward pass the upstream gradient scales rows of hidden units, never those of the wide residual.
    below = hidden.up(matrix_product(residual, weight).mul_(scale) if hidden.meets else None)
    last, (by_weight, by_bias) = hidden.values[-1], outer[place : place + 2]
    along = _along(below, last, layers[-1], by_weight, by_bias)
    of_upstream = of_x = of_weight = of_bias = by_last = None
    if along is not None:
        if wanted[0]:
            of_upstream = sum_over(along * residual, 1)
        if wanted[2]:
            of_x = sum_to_shape((along * scale).view(wide), x.shape)
        if wants_weight or wants_bias or any(of_hidden):
            # Times p (1 - p) from here on, p = sigmoid(logits): x less the residual.
            probability = (x - residual.view(wide)).view(residual.shape)
            along.mul_(probability).addcmul_(along, probability, value=-1.0)
        if wants_weight:
            of_weight = None if below is None else matrix_product(residual.t(), below * scale)
            of_weight = _add_product(of_weight, along.t(), last * scale, -1.0)
        if wants_bias:
            of_bias = sum_over(along, 0, scale).neg_()
        if any(of_hidden):
            by_last = None if by_weight is None else matrix_product(residual, by_weight)
            by_last = _add_product(by_last, along, weight, -1.0).mul_(scale)
    of_z, *found = hidden.down(by_last)
    of_z = None if of_z is None else sum_to_shape(of_z.view(shape), z.shape)
    return _complete((of_upstream, of_z, of_x, *found, of_weight, of_bias), saved, wanted)

"""The least that a training step of a perceptron does: its matrix products in place, and the memory that Adam moves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvi.benchmarks.timers import Call


def matrix_products(weights: Sequence[Tensor], gradients: Sequence[Tensor], rows: Sequence[int]) -> Call:
    """Only the matrix products of one step, in its order, each into memory of its own that later ones read.

    Forward the output of every layer; backward, from the last layer, the gradient of its weight, which goes into
    ``gradients``, and of its input, which nobody asks for at the first layer. ``rows`` is the number of rows that go
    through each layer. Where it changes, at the draw of the latent variables, the products go on with other rows.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for weight, count in zip(weights, rows, strict=True):
        wide, narrow = weight.shape
        follows = bool(outputs) and outputs[-1].shape == (count, narrow)
        inputs.append(outputs[-1] if follows else torch.randn(count, narrow, dtype=weight.dtype))
        outputs.append(torch.randn(count, wide, dtype=weight.dtype))
    products = [(left, weight.T, out) for left, weight, out in zip(inputs, weights, outputs, strict=True)]
    incoming = torch.randn_like(outputs[-1])
    for index in reversed(range(len(weights))):
        products.append((incoming.T, inputs[index], gradients[index]))
        if index > 0:
            gradient = torch.empty_like(inputs[index])
            products.append((incoming, weights[index], gradient))
            follows = inputs[index] is outputs[index - 1]
            incoming = gradient if follows else torch.randn_like(outputs[index - 1])

    def call() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return call


def products_and_floor(
    weights: Sequence[Tensor], rows: Sequence[int], num_parameters: int, dtype: torch.dtype
) -> tuple[Call, Call]:
    """Return the matrix products in ``dtype`` alone, and followed by one pass over the memory that Adam has to move.

    For each float32 parameter, biases too, Adam reads it, its gradient and two moments, and writes all but the
    gradient. The pass does so in place, by an addition and two multiplications; in float32 the products read the same
    weights and write the same gradients.
    """
    own_weights, own_gradients, optimiser_pass = optimiser_memory(weights, num_parameters, dtype)
    products = matrix_products(own_weights, own_gradients, rows)

    def floor() -> None:
        products()
        optimiser_pass()

    return products, floor


def optimiser_memory(
    weights: Sequence[Tensor], num_parameters: int, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor], Call]:
    """Return copies of the weights and places for their gradients, and the pass over the memory that Adam has to move.

    In float32 copies and places are parts of that memory.
    """
    flat_weights, flat_gradients, first, second = (torch.zeros(num_parameters) for _ in range(4))
    places = _views(flat_weights, weights)
    for place, weight in zip(places, weights, strict=True):
        place.copy_(weight.detach())
    own_weights = [place.to(dtype) for place in places]  # no copy in float32
    own_gradients = [place.to(dtype) for place in _views(flat_gradients, weights)]

    def optimiser_pass() -> None:
        flat_weights.mul_(1.0)
        first.add_(flat_gradients, alpha=0.0)
        second.mul_(1.0)

    return own_weights, own_gradients, optimiser_pass


def _views(memory: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return parts of the memory, one after the other, that have the tensors' shapes."""
    ends = itertools.accumulate(tensor.numel() for tensor in tensors)
    return [memory[end - tensor.numel() : end].view(tensor.shape) for end, tensor in zip(ends, tensors, strict=True)]

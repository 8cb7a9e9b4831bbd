"""The Bernoulli log-likelihood of a perceptron together with its gradient by z, as one node of autograd.

Hamiltonian dynamics move z by that gradient, so that its derivative is needed in turn. Taken through the operations,
that derivative makes the gradient of each layer a second time, because nothing has kept it. Here it is kept, and the
log-likelihood's own derivative goes down the layers together with that of the gradient: six matrix products a layer,
two forward and four backward, whether one of the two results is used or both. The mathematics is that of
:mod:`fastvi.ops._second_derivatives`, whose direction is here the derivative by the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvi._perceptron import INDICES
from fastvi.ops._backends import MODULES, sum_over
from fastvi.ops._layers import MAX_LAYERS, agree, as_rows, layers_of, matrix_product, packed, slots_in
from fastvi.ops._one_node import Network
from fastvi.ops._operation import OPERATIONS
from fastvi.ops._precision import HALF_DTYPES, autocast_dtype
from fastvi.ops._second_derivatives import BENDS
from fastvi.ops.mlp import mlp_bernoulli_log_prob

_PARAMETERS = 2 * MAX_LAYERS


def log_prob_and_gradient(z: Tensor, x: Tensor, decoder: Network) -> tuple[Tensor, Tensor] | None:
    """Log p(x|z) in nats, (K, B), and its gradient by z, (K, B, Z), both differentiable by z and the parameters.

    None where the operations have to be called instead: for tensors that transforms, modes or the compiler watch, in
    half precision and autocast, for an x with a gradient, and for activations whose slope does not follow from their
    value.
    """
    parameters, activation = decoder
    if (
        torch.compiler.is_compiling()
        or activation not in BENDS
        or x.requires_grad
        or x.shape[:-1] != z.shape[z.dim() - x.dim() : -1]
        or z.dtype in HALF_DTYPES
        or autocast_dtype(z) is not None
        or not agree(z, (x, *parameters))
    ):
        return None
    route = MODULES.of(z).route(z, x, *parameters)
    if route is NotImplemented:
        return None
    if route is None:
        node: Any = _WithGradient  # PyTorch's types know its apply() in some versions alone
        found: tuple[Tensor, Tensor] = node.apply(z, x, activation, *parameters)
        return found
    value, gradient, *_ = _run(z, x, activation, parameters)
    return value, gradient


def _run(z: Tensor, x: Tensor, activation: str, parameters: Sequence[Tensor | None]) -> Any:
    """The two results; the hidden layers and x - sigmoid(logits), as the operation keeps them; each layer's gradient.

    The latter are those by what a layer has before its activation.
    """
    module, layers = MODULES.of(z), layers_of(parameters)
    functions = OPERATIONS["mlp_bernoulli_log_prob"].functions_in(module)
    value, memory, residual = functions.forward(z, x, *parameters, activation, None)
    slots = slots_in(memory, value.numel(), layers, len(layers) - 1, activation)
    gradients: list[Tensor] = []
    gradient = matrix_product(residual, layers[-1][0])
    for (weight, _), slot in zip(reversed(layers[:-1]), reversed(slots), strict=True):
        module.layer_gradient(gradient, INDICES[activation], slot.value, None, None, None, False)
        gradients.insert(0, gradient)
        gradient = matrix_product(gradient, weight)
    return value, gradient.view(z.shape), memory, residual, gradients


class _WithGradient(torch.autograd.Function):
    """Log-likelihood and gradient; their derivatives by z and the parameters."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, x: Tensor, activation: str, *parameters: Tensor | None) -> Any:
        value, gradient, memory, residual, gradients = _run(z, x, activation, parameters)
        ctx.save_for_backward(z, x, memory, residual, *parameters, *gradients)
        ctx.activation = activation
        ctx.set_materialize_grads(False)
        return value, gradient

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> Any:
        z, x, memory, residual, *others = ctx.saved_tensors
        parameters, gradients = others[:_PARAMETERS], others[_PARAMETERS:]
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        given = [each for each in outer if each is not None]
        if not given:
            return (None,) * (3 + _PARAMETERS)
        if MODULES.of(z).runs_backward(*given, *ctx.saved_tensors):
            found = _derivatives(z, x, ctx.activation, parameters, packed(memory), residual, gradients, outer, needs)
        else:
            found = _by_operations(z, x, Network(tuple(parameters), ctx.activation), outer, needs)
        return found[0], None, None, *found[1:]


def _derivatives(
    z: Tensor,
    x: Tensor,
    activation: str,
    parameters: Sequence[Tensor | None],
    memory: Tensor,
    residual: Tensor,
    gradients: Sequence[Tensor],
    outer: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The derivatives by z and by each parameter, of the log-likelihood and its gradient times the outer gradients."""
    module, layers, index, bend = MODULES.of(z), layers_of(parameters), INDICES[activation], BENDS[activation]
    by_value, by_gradient = outer
    rows, last = math.prod(z.shape[:-1]), len(layers) - 1
    scale = None if by_value is None else by_value.reshape(rows, 1)
    slots = slots_in(memory, rows, layers, last, activation)
    values = [as_rows(z), *[slot.value for slot in slots]]
    # The outer gradient of the gradient by z is a direction: it is carried up through the layers.
    directions = [] if by_gradient is None else [as_rows(by_gradient)]
    bent: list[Tensor | None] = [None] * last
    for i, (weight, _) in enumerate(layers if directions else ()):
        along = matrix_product(directions[i], weight.t())
        if i < last:
            if bend is not None:
                bent[i] = bend(along * gradients[i], values[i + 1])
            module.layer_gradient(along, index, values[i + 1], None, None, None, False)
        directions.append(along)
    if directions:
        # Along the direction the logits' gradient, x - p for p = sigmoid(logits), changes by -p (1 - p) times theirs.
        gradient = directions.pop()
        probability = (x - residual.view(*z.shape[:-1], x.shape[-1])).view(residual.shape)
        gradient.mul_(probability).addcmul_(gradient, probability, value=-1.0)
        gradient = gradient.neg_() if scale is None else torch.addcmul(-gradient, residual, scale)
    else:
        assert scale is not None
        gradient = residual * scale
    found: list[Tensor | None] = [None] * len(needs)
    for i in range(last, -1, -1):
        weight, _ = layers[i]
        if i < last:
            module.layer_gradient(gradient, index, values[i + 1], None, None, None, False)
            through = bent[i]
            if through is not None:
                gradient.add_(through)
        if needs[1 + 2 * i]:
            found[1 + 2 * i] = by_weight = matrix_product(gradient.t(), values[i])
            if directions:
                by_weight.addmm_((residual if i == last else gradients[i]).t(), directions[i])
        if needs[2 + 2 * i]:
            found[2 + 2 * i] = sum_over(gradient, 0)
        if not any(needs[: 1 + 2 * i]):
            return found
        gradient = matrix_product(gradient, weight)
    found[0] = gradient.view(z.shape)
    return found


def _by_operations(
    z: Tensor, x: Tensor, decoder: Network, outer: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """The same through the operations, where the derivatives are to be recorded, or transforms and modes watch them."""
    records = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        leaves = [z, *decoder.parameters]
        if not records:
            leaves = [
                each if each is None else each.detach().requires_grad_(need)
                for each, need in zip(leaves, needs, strict=True)
            ]
        start = leaves[0] if needs[0] else z.detach().requires_grad_()
        assert start is not None
        layers = Network(tuple(leaves[1:]), decoder.activation).layers()
        value = mlp_bernoulli_log_prob(start, *layers, x, decoder.activation)
        (gradient,) = torch.autograd.grad(value.sum(), start, create_graph=True)
    terms = [(result, each) for result, each in zip((value, gradient), outer, strict=True) if each is not None]
    wanted: list[Any] = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
    found = iter(
        torch.autograd.grad(
            [result for result, _ in terms], wanted, [each for _, each in terms], create_graph=records,
            allow_unused=True,
        )
    )  # fmt: skip
    return [next(found) if need else None for need in needs]

"""Multilayer perceptrons, alone and with the Bernoulli log-likelihood of what they give: one operation each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fastvi import reference
from fastvi._perceptron import IDENTITY, INDICES, check_activation, check_layers, read_layers
from fastvi._sizes import check_flag
from fastvi.ops._backends import Functions, sum_over, sum_to_shape
from fastvi.ops._checks import check_operands
from fastvi.ops._layers import (
    MAX_LAYERS,
    PARAMETERS,
    PRODUCT_DTYPE,
    PUBLIC_NAMES,
    Layer,
    agree,
    as_rows,
    compiles_formula,
    hidden_gradients,
    hidden_values,
    kept_columns,
    layers_of,
    matrix_product,
    packed,
    parameters_of,
    passing_slots,
    rounded,
    slots_in,
    widened,
)
from fastvi.ops._operation import Operation
from fastvi.ops._precision import autocast_dtype, check_product_dtype, compute_dtype, widen
from fastvi.ops._second_derivatives import of_mlp, of_mlp_bernoulli_log_prob
from fastvi.ops._shapes import leading_shape
from fastvi.ops.bernoulli import by_observations, check_observations

NATIVE_PRODUCTS = (None, torch.bfloat16)
"""What the native perceptrons of few rows may round the factors of their products to."""


def _no_kernel(*arguments: Any) -> Any:
    return NotImplemented


def _features(x: Tensor, *arguments: Any) -> int:
    """The number of features of the result, after a check of all arguments."""
    check_activation("mlp", arguments[-3])
    check_product_dtype("mlp", arguments[-1])
    return check_layers("mlp", "x", x, layers_of(arguments[:-3]))


def _mlp_functions(module: Any) -> Functions:
    activate = module.forward.activate_layer
    all_layers = getattr(module, "perceptron", _no_kernel)
    all_layers_backward = getattr(module, "perceptron_backward", _no_kernel)

    def run(x: Tensor, arguments: Sequence[Any], keep: bool) -> Any:
        *parameters, activation, activate_last, product_dtype = arguments
        if product_dtype in NATIVE_PRODUCTS:
            found = all_layers(x, *parameters, INDICES[activation], activate_last, product_dtype is not None)
            if found is not NotImplemented:
                return found
        layers, dtype = layers_of(parameters), x.dtype
        features = _features(x, *arguments)
        if dtype is not compute_dtype(dtype):
            x, layers = widen(x), widened(layers)
        inputs, num_active = as_rows(x), len(layers) - (not activate_last)
        rows = inputs.shape[0]
        out = x.new_empty((*x.shape[:-1], features))
        matrix = out.view(rows, features)
        memory = None
        if keep:
            memory = x.new_empty(rows * kept_columns(layers, num_active, activation))
            slots = slots_in(memory, rows, layers, num_active, activation)
        else:
            slots = passing_slots(x, rows, layers, num_active)
        last = hidden_values(
            module, inputs, layers, slots, activation, product_dtype, matrix if activate_last else None
        )
        if not activate_last:
            weight, bias = layers[-1]
            matrix_product(last, weight.t(), product_dtype, out=matrix)
            if bias is not None:
                activate(matrix, IDENTITY, bias, None, None)
        return out if out.dtype is dtype else out.to(dtype), memory

    def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = run(x, arguments, keep=True)
        return result

    def attempt(x: Any, *arguments: Any) -> Any:
        route = module.route(x, *arguments[:-3])
        if route is NotImplemented or x is None or arguments[0] is None or not agree(x, arguments[:-3]):
            return NotImplemented
        return None if route is None else run(x, arguments, keep=False)[0]

    def backward(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
        *parameters, memory, activation, activate_last, product_dtype, needs = arguments
        if product_dtype in NATIVE_PRODUCTS:
            constants = INDICES[activation], activate_last, needs, product_dtype is not None
            found = all_layers_backward(grad, x, *parameters, memory, *constants)
            if found is not NotImplemented:
                return cast("tuple[Tensor | None, ...]", found)
        layers, dtype = layers_of(parameters), x.dtype
        features = check_layers("mlp", "x", x, layers)
        shape = x.shape
        if grad.shape != (*shape[:-1], features):
            raise ValueError(f"mlp: gradient has shape {tuple(grad.shape)}, expected {(*tuple(shape[:-1]), features)}")
        if dtype is not compute_dtype(dtype):
            grad, x = widen(grad), widen(x)
            layers = widened(layers)
        inputs, num_active = as_rows(x), len(layers) - (not activate_last)
        upstream = as_rows(grad)
        gradient: Tensor | None
        rows = inputs.shape[0]
        if memory.numel() != rows * kept_columns(layers, num_active, activation):
            raise ValueError(f"mlp: auxiliary_0 has {memory.numel()} elements, which are not those of its layers")
        slots = slots_in(packed(memory), rows, layers, num_active, activation)
        by_last: list[Tensor | None] = []
        if activate_last:
            gradient = upstream.clone(memory_format=torch.contiguous_format)
        else:
            last = slots[-1].value if slots else inputs
            place = 1 + 2 * num_active
            factor = upstream if product_dtype is None else upstream.to(product_dtype)  # two products take it
            by_last = [
                matrix_product(factor.t(), last, product_dtype) if needs[place] else None,
                sum_over(upstream, 0) if needs[place + 1] else None,
            ]
            gradient = matrix_product(factor, layers[-1][0], product_dtype) if any(needs[:place]) else None
        if gradient is None:
            found = [None] * (1 + 2 * num_active)
        else:
            found = hidden_gradients(module, gradient, inputs, layers, slots, activation, needs, product_dtype)
        found[0] = None if found[0] is None or not needs[0] else found[0].reshape(shape)
        return rounded([*found, *by_last], dtype, 1 + len(parameters))

    def attempt_backward(grad: Tensor, *arguments: Any) -> Any:
        tensors, memory = arguments[:-5], arguments[-5]
        fits = module.runs_backward(grad, *tensors, memory) and agree(grad, tensors)
        if not fits or memory.dtype is not compute_dtype(grad.dtype):
            return NotImplemented
        return backward(grad, *arguments)

    return Functions(attempt, forward, attempt_backward, backward)


def _mlp_formula(x: Tensor, *arguments: Any) -> Tensor:
    *parameters, activation, activate_last, _ = arguments
    layers = layers_of(parameters)
    with torch.autocast(x.device.type, enabled=False):
        return reference.mlp(x, [w for w, _ in layers], [b for _, b in layers], activation, activate_last)


def _mlp_fake(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *parameters, activation, activate_last, _ = arguments
    layers = layers_of(parameters)
    features = _features(x, *arguments)
    leading = x.shape[:-1]
    columns = kept_columns(layers, len(layers) - (not activate_last), activation)
    memory = x.new_empty(math.prod(leading) * columns, dtype=compute_dtype(x.dtype))
    return x.new_empty((*leading, features)), memory


_MLP: Operation[Tensor] = Operation(
    name="mlp",
    tensors=("Tensor x", *PARAMETERS),
    constants=("str activation", "bool activate_last", PRODUCT_DTYPE),
    formula=_mlp_formula,
    fake=_mlp_fake,
    functions=_mlp_functions,
    num_auxiliary=1,
    public_names=PUBLIC_NAMES,
    check=_features,
    second=of_mlp,
    compiles_formula=compiles_formula,
)


def _layers_given(operation: str, name: str, x: Any, weights: Any, biases: Any, activation: object) -> list[Layer]:
    """The layers of the public functions' arguments, their kinds and numbers checked."""
    sequences = (list, tuple, torch.nn.ParameterList)
    layers = read_layers(operation, weights, biases, activation, sequences, "torch.Tensor")
    if len(layers) > MAX_LAYERS:  # the operations that follow each other number theirs from zero
        names = [f"{each}[{i}]" for i in range(len(layers)) for each in ("weights", "biases")]
        parameters = [each for layer in layers for each in layer]
        optional = [each for each, parameter in zip(names, parameters, strict=True) if parameter is None]
        check_operands(operation, [name, *names], [x, *parameters], optional)
        check_layers(operation, name, x, layers)
    return layers


def _last_layers(x: Tensor, layers: list[Layer], activation: str) -> tuple[Tensor, list[Layer]]:
    """The perceptron's last layers, as many as one operation takes, and what the ones before them give."""
    while len(layers) > MAX_LAYERS:
        x = _MLP(x, *parameters_of(layers[:MAX_LAYERS]), activation, True, autocast_dtype(x))
        layers = layers[MAX_LAYERS:]
    return x, layers


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    activation: str = "tanh",
    activate_last: bool = False,
) -> Tensor:
    r"""A multilayer perceptron as one operation: :math:`a_{i+1} = f(a_i W_i^\top + b_i)`, the last layer linear.

    Bias and activation are one pass over each matrix product, and so are the activation's
    derivative and the bias's gradient. Autograd sees one node for four layers. In a region of ``torch.autocast`` the
    factors of the products have the region's dtype, and the result is float32.

    Parameters
    ----------
    x
        Shape (..., H_0).
    weights
        Of each layer, as in ``torch.nn.Linear``: the shape (H_{i+1}, H_i).
    biases
        Of each layer, shape (H_{i+1},), or None for a layer without one; None for no biases at all.
    activation
        f: ``"tanh"``, ``"sigmoid"``, ``"relu"``, ``"softplus"``, ``"elu"``, ``"silu"`` or ``"gelu"`` (that of the
        normal distribution function, not the approximation by tanh).
    activate_last
        Apply f after the last layer, too.

    Returns
    -------
    Tensor
        Shape (..., H_n).

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not fit, devices differ, or there is no such activation.

    Examples
    --------
    >>> import torch, fastvi
    >>> first, second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
    >>> x = torch.ones(5, 4)
    >>> out = fastvi.mlp(x, [first.weight, second.weight], [first.bias, second.bias], "relu")
    >>> torch.allclose(out, second(torch.relu(first(x))), atol=1e-6)
    True
    """
    layers = _layers_given("mlp", "x", x, weights, biases, activation)
    activate = check_flag("mlp", "activate_last", activate_last)
    x, layers = _last_layers(x, layers, activation)
    return _MLP(x, *parameters_of(layers), activation, activate, autocast_dtype(x))


def _leading(z: Tensor, x: Tensor, layers: Sequence[Layer], product_dtype: torch.dtype | None) -> torch.Size:
    """The leading shape of the log-likelihood, after a check of all shapes."""
    operation = "mlp_bernoulli_log_prob"
    check_product_dtype(operation, product_dtype)
    features = check_layers(operation, "z", z, layers)
    if x.dim() == 0 or x.shape[-1] != features:
        raise ValueError(
            f"{operation}: x has shape {tuple(x.shape)}, expected (..., {features}) for the {features} features of "
            "the last layer"
        )
    return leading_shape(operation, "z", z, x)


def _bernoulli_functions(module: Any) -> Functions:
    epilogue = module.forward.bernoulli_epilogue
    all_layers = getattr(module, "bernoulli_perceptron", _no_kernel)
    all_layers_value = getattr(module, "bernoulli_perceptron_value", _no_kernel)
    all_layers_backward = getattr(module, "bernoulli_perceptron_backward", _no_kernel)

    def run(z: Tensor, x: Tensor, arguments: Sequence[Any], keep: bool) -> Any:
        """The log-likelihood, the hidden layers, and x - sigmoid(logits) in the memory of the logits."""
        *parameters, activation, product_dtype = arguments
        if product_dtype in NATIVE_PRODUCTS:
            constants = INDICES[activation], product_dtype is not None
            if keep:
                found = all_layers(z, x, *parameters, *constants)
                if found is not NotImplemented:
                    return found
            else:
                value = all_layers_value(z, x, *parameters, *constants)
                if value is not NotImplemented:
                    return value, None, None
        layers, dtype = layers_of(parameters), z.dtype
        leading = _leading(z, x, layers, product_dtype)
        if dtype is not compute_dtype(dtype):
            z, x, layers = widen(z), widen(x), widened(layers)
        inputs, rows, num_active = as_rows(z.expand((*leading, z.shape[-1]))), math.prod(leading), len(layers) - 1
        memory = None
        if keep:
            memory = z.new_empty(rows * kept_columns(layers, num_active, activation))
            slots = slots_in(memory, rows, layers, num_active, activation)
        else:
            slots = passing_slots(z, rows, layers, num_active)
        hidden = hidden_values(module, inputs, layers, slots, activation, product_dtype)
        weight, bias = layers[-1]
        logits = matrix_product(hidden, weight.t(), product_dtype)
        out = epilogue(logits, bias, x.expand((*leading, x.shape[-1])), keep)
        return out if out.dtype is dtype else out.to(dtype), memory, logits

    def forward(z: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor] = run(z, x, arguments, keep=True)
        return result

    def attempt(z: Any, x: Any, *arguments: Any) -> Any:
        route = module.route(z, x, *arguments[:-2])
        if route is NotImplemented or z is None or x is None or arguments[0] is None:
            return NotImplemented
        if not agree(z, (x, *arguments[:-2])):
            return NotImplemented
        return None if route is None else run(z, x, arguments, keep=False)[0]

    def backward(grad: Tensor, z: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
        *parameters, memory, residual, activation, product_dtype, needs = arguments
        if product_dtype in NATIVE_PRODUCTS:
            constants = INDICES[activation], needs, product_dtype is not None
            found = all_layers_backward(grad, z, x, *parameters, memory, residual, *constants)
            if found is not NotImplemented:
                return cast("tuple[Tensor | None, ...]", found)
        layers, dtype = layers_of(parameters), z.dtype
        leading = _leading(z, x, layers, product_dtype)
        rows, num_active = math.prod(leading), len(layers) - 1
        columns = kept_columns(layers, num_active, activation)
        expected = (rows, x.shape[-1])
        if grad.shape != leading or residual.shape != expected or memory.numel() != rows * columns:
            raise ValueError(
                f"mlp_bernoulli_log_prob: gradient has shape {tuple(grad.shape)}, residual {tuple(residual.shape)} and "
                f"hidden layers {memory.numel()} elements, expected {tuple(leading)}, {expected} and {rows * columns}"
            )
        if dtype is not compute_dtype(dtype):
            grad, z, x = widen(grad), widen(z), widen(x)
            layers = widened(layers)
        shape = (*leading, z.shape[-1])
        inputs, scale = as_rows(z.expand(shape)), grad.reshape(rows)
        slots = slots_in(packed(memory), rows, layers, num_active, activation)
        last = slots[-1].value if slots else inputs
        weight, bias = layers[-1]
        place = 2 + 2 * num_active
        # The upstream gradient scales rows: of the hidden units, never of the wide residual.
        scaled = torch.empty_like(last) if needs[place] and slots else None
        hidden_needs = [needs[0], *needs[2:place]]
        factor = residual if product_dtype is None else residual.to(product_dtype)  # two products take it
        if slots and (any(hidden_needs) or needs[place]):
            gradient = matrix_product(factor, weight, product_dtype)
            found = hidden_gradients(
                module, gradient, inputs, layers, slots, activation, hidden_needs, product_dtype, scale, scaled
            )
        else:
            found = [None] * (1 + 2 * num_active)
            if needs[place]:
                scaled = last * scale.unsqueeze(1)
            if needs[0]:
                found[0] = matrix_product(factor, weight, product_dtype).mul_(scale.unsqueeze(1))
        by_z = None if found[0] is None or not needs[0] else sum_to_shape(found[0].view(shape), z.shape)
        by_weight = None if scaled is None else matrix_product(factor.t(), scaled, product_dtype)
        by_bias = sum_over(residual, 0, weights=scale) if needs[place + 1] else None
        by_x = by_observations(last, weight, bias, x, scale, leading, product_dtype) if needs[1] else None
        return rounded([by_z, by_x, *found[1:], by_weight, by_bias], dtype, 2 + len(parameters))

    def attempt_backward(grad: Tensor, *arguments: Any) -> Any:
        tensors, kept = arguments[:-5], arguments[-5:-3]
        fits = module.runs_backward(grad, *tensors, *kept) and agree(grad, tensors)
        if not fits or any(each.dtype is not compute_dtype(grad.dtype) for each in kept):
            return NotImplemented
        return backward(grad, *arguments)

    return Functions(attempt, forward, attempt_backward, backward)


def _bernoulli_formula(z: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    *parameters, activation, _ = arguments
    layers = layers_of(parameters)
    with torch.autocast(z.device.type, enabled=False):
        return reference.mlp_bernoulli_log_prob(z, [w for w, _ in layers], [b for _, b in layers], x, activation)


def _bernoulli_fake(z: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *parameters, activation, product_dtype = arguments
    layers, dtype = layers_of(parameters), compute_dtype(z.dtype)
    leading = _leading(z, x, layers, product_dtype)
    rows = math.prod(leading)
    memory = z.new_empty(rows * kept_columns(layers, len(layers) - 1, activation), dtype=dtype)
    return z.new_empty(leading), memory, z.new_empty((rows, x.shape[-1]), dtype=dtype)


def _check_bernoulli(z: Tensor, x: Tensor, *arguments: Any) -> None:
    *parameters, activation, product_dtype = arguments
    check_activation("mlp_bernoulli_log_prob", activation)
    _leading(z, x, layers_of(parameters), product_dtype)


_BERNOULLI: Operation[Tensor] = Operation(
    name="mlp_bernoulli_log_prob",
    tensors=("Tensor z", "Tensor x", *PARAMETERS),
    constants=("str activation", PRODUCT_DTYPE),
    formula=_bernoulli_formula,
    fake=_bernoulli_fake,
    functions=_bernoulli_functions,
    num_auxiliary=2,
    public_names=PUBLIC_NAMES,
    check=_check_bernoulli,
    second=of_mlp_bernoulli_log_prob,
    compiles_formula=compiles_formula,
    truths=("x",),
)


def mlp_bernoulli_log_prob(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    x: Tensor,
    activation: str = "tanh",
    validate_args: bool = False,
) -> Tensor:
    """``bernoulli_log_prob(x, mlp(z, weights, biases, activation))`` as one operation: a decoder and its likelihood.

    As :func:`fastvi.mlp` with :func:`fastvi.linear_bernoulli_log_prob` for its last layer: the logits are overwritten
    by what the backward pass needs of them.

    Parameters
    ----------
    z
        Latent variables, shape (..., H_0), for example (K, B, Z).
    weights, biases, activation
        As for :func:`fastvi.mlp`; the last layer has as many features as ``x``.
    x
        Observations in [0, 1], or truth values, shape (..., D); broadcasts with z, for example (B, D) with (K, B, Z).
    validate_args
        Look whether x lies in [0, 1], as :func:`fastvi.bernoulli_log_prob` does.

    Returns
    -------
    Tensor
        Log-likelihood in nats, of the broadcast leading shape.

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not fit, devices differ, there is no such activation, or x is to be looked at and not in [0, 1].

    Examples
    --------
    >>> import torch, fastvi
    >>> first, second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 6)
    >>> z, x = torch.zeros(5, 3, 4), torch.ones(3, 6)
    >>> fastvi.mlp_bernoulli_log_prob(z, [first.weight, second.weight], [first.bias, second.bias], x).shape
    torch.Size([5, 3])
    """
    operation = "mlp_bernoulli_log_prob"
    layers = _layers_given(operation, "z", z, weights, biases, activation)
    if check_flag(operation, "validate_args", validate_args):
        check_observations(operation, x)
    z, layers = _last_layers(z, layers, activation)
    return _BERNOULLI(z, x, *parameters_of(layers), activation, autocast_dtype(z))

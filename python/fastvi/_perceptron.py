"""What layers of tensors and of arrays share: the activations, and the checks of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# As csrc/formulas/activation.h numbers them.
IDENTITY = 0
INDICES = {"tanh": 1, "sigmoid": 2, "relu": 3, "softplus": 4, "elu": 5, "silu": 6, "gelu": 7}
ACTIVATIONS = tuple(INDICES)


def read_layers(
    operation: str, weights: Any, biases: Any, activation: object, sequences: tuple[type[Any], ...], tensor: str
) -> list[tuple[Any, Any]]:
    """Each layer's weight and bias, after a check of the kinds and numbers of the arguments.

    Raises
    ------
    TypeError
        If weights or biases are none of the ``sequences``, a weight is None, or the activation is no string.
    ValueError
        If there are no weights or another number of biases, or there is no such activation.
    """
    if not isinstance(weights, sequences):
        raise TypeError(f"{operation}: weights must be a list or a tuple of {tensor}s, got {type(weights).__name__}")
    if biases is not None and not isinstance(biases, sequences):
        raise TypeError(f"{operation}: biases must be None, a list or a tuple, got {type(biases).__name__}")
    count = len(weights)
    if count == 0:
        raise ValueError(f"{operation}: got 0 weights, expected one for each layer")
    if biases is not None and len(biases) != count:
        raise ValueError(f"{operation}: got {count} weights and {len(biases)} biases, expected one of each for a layer")
    check_activation(operation, activation)
    for i, weight in enumerate(weights):
        if weight is None:
            raise TypeError(f"{operation}: weights[{i}] must be a {tensor}, got NoneType")
    return [(weight, None if biases is None else biases[i]) for i, weight in enumerate(weights)]


def check_activation(operation: str, activation: object) -> None:
    """Reject what names no activation.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If there is no such activation.
    """
    if not isinstance(activation, str):
        names, kind = ", ".join(ACTIVATIONS), type(activation).__name__
        raise TypeError(f"{operation}: activation must be one of {names}, got {kind}")
    if activation not in INDICES:
        raise ValueError(f"{operation}: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def check_layers(operation: str, name: str, x: Any, layers: Sequence[tuple[Any, Any]]) -> int:
    """The number of features that the last layer gives, after a check of all shapes, one against the other.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    if len(x.shape) == 0:
        raise ValueError(f"{operation}: {name} has no dimension; expected the features in the last one")
    features: int = x.shape[-1]
    for i, (weight, bias) in enumerate(layers):
        shape = weight.shape
        if len(shape) != 2 or shape[1] != features:
            source = f"{name} of shape {tuple(x.shape)}" if i == 0 else f"the {features} features of the layer before"
            raise ValueError(
                f"{operation}: weights[{i}] has shape {tuple(shape)}, expected (features out, {features}) for {source}"
            )
        features = shape[0]
        if bias is not None and bias.shape != shape[:1]:
            raise ValueError(f"{operation}: biases[{i}] has shape {tuple(bias.shape)}, expected ({features},)")
    return features


def check_head(operation: str, h: Any, weight: Any, bias: Any, x: Any) -> None:
    """Check the shapes of a last layer, of what it is given, called h, and of the observations x.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    shape = tuple(weight.shape)
    if len(shape) != 2:
        raise ValueError(f"{operation}: weight has shape {shape}, expected (features of x, features of h)")
    for name, given, features in (("h", h, shape[1]), ("x", x, shape[0])):
        if len(given.shape) == 0 or given.shape[-1] != features:
            raise ValueError(
                f"{operation}: {name} has shape {tuple(given.shape)}, expected (..., {features}) for weight {shape}"
            )
    if bias is not None and tuple(bias.shape) != shape[:1]:
        raise ValueError(f"{operation}: bias has shape {tuple(bias.shape)}, expected ({shape[0]},)")

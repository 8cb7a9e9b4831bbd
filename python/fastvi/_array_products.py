"""What is asked of NumPy's arrays, and the operations that have matrix products, which are NumPy's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastvi import _native
from fastvi._perceptron import IDENTITY, INDICES, check_head, check_layers, read_layers
from fastvi._sizes import check_flag, describe_range, refuse_signs

Array: TypeAlias = NDArray[np.floating[Any]]
Observations: TypeAlias = Array | NDArray[np.bool_]

_NATIVE = _native.module().numpy
DTYPES = frozenset({np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)})
DTYPE_NAMES = "float32, float64 or float16"


def is_array(value: object) -> TypeGuard[Array]:
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def plain(array: Array) -> Array:
    """The array as NumPy's own class: a subclass may do what it likes in the functions that it overrides."""
    return array if type(array) is np.ndarray else np.ndarray.view(array, np.ndarray)


def check_array(operation: str, name: str, array: object) -> Array:
    """The array as NumPy's own class, after a check that its numbers are floating-point ones."""
    if not is_array(array):
        raise TypeError(f"{operation}: {name} must be a numpy.ndarray, got {type(array).__name__}")
    array = plain(array)
    if array.dtype not in DTYPES:
        raise TypeError(f"{operation}: {name} has dtype {array.dtype}, expected {DTYPE_NAMES}")
    return array


def check_arrays(operation: str, named: dict[str, Any]) -> dict[str, Array]:
    """The arrays as NumPy's own class, after a check that they are of the first one's dtype."""
    found: dict[str, Array] = {}
    for name, given in named.items():
        array = found[name] = check_array(operation, name, given)
        first = next(iter(found))
        if array.dtype != found[first].dtype:
            raise TypeError(f"{operation}: {name} has dtype {array.dtype}, but {first} has {found[first].dtype}")
    return found


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the arithmetic on arrays of ``dtype``."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def widen(array: Array) -> Array:
    return array.astype(compute_dtype(array.dtype), copy=False)


def narrow(array: Array, dtype: np.dtype[Any]) -> Array:
    """In the dtype of the operands; a number too large for it is infinite, without a warning, as in the kernels."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def of_truth(x: Any, like: Any) -> Any:
    """Observations: truth values as 0 and 1 in the dtype of the array ``like``; anything else as it is."""
    if is_array(x) and x.dtype == bool and is_array(like) and like.dtype.kind == "f":
        return x.astype(like.dtype)
    return x


def check_observations(operation: str, x: Observations) -> None:
    """Reject values outside [0, 1], NaN among them."""
    values = check_array(operation, "x", x)
    bounds = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (bounds[0] >= 0.0 and bounds[1] <= 1.0):
        raise ValueError(f"{operation}: x must lie in [0, 1], got {describe_range(bounds)}")


def check_counts(operation: str, x: Array, total_count: Any, validate_args: bool) -> None:
    """Reject counts below zero, and a total count that is not above it, where they are to be looked at; NaN as well."""
    if not check_flag(operation, "validate_args", validate_args):
        return
    for name, given in {"x": x, "total_count": total_count}.items():
        array = None if given is None else check_array(operation, name, given)
        if array is not None and array.size:
            refuse_signs(operation, name, (float(array.min()), float(array.max())), name == "total_count")


def linear_bernoulli_log_prob(
    h: Array, weight: Array, bias: Array | None, x: Observations, validate_args: bool = False
) -> Array:
    """``bernoulli_log_prob(x, h @ weight.T + bias)``, as :func:`fastvi.linear_bernoulli_log_prob`.

    The matrix product is NumPy's: its rounding, and no more, may differ from that of PyTorch's.

    Raises: see :func:`fastvi.linear_bernoulli_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> h, weight, x = np.zeros((5, 3, 4)), np.ones((6, 4)), np.ones((3, 6))
    >>> fastvi.numpy.linear_bernoulli_log_prob(h, weight, None, x).shape
    (5, 3)
    """
    operation = "linear_bernoulli_log_prob"
    targets: Any = of_truth(x, h)
    named = check_arrays(
        operation, {"h": h, "weight": weight} | ({} if bias is None else {"bias": bias}) | {"x": targets}
    )
    h, weight, bias, x = named["h"], named["weight"], named.get("bias"), named["x"]
    if check_flag(operation, "validate_args", validate_args):
        check_observations(operation, x)
    check_head(operation, h, weight, bias, x)
    leading = _leading(operation, "h", h, x)
    hidden = _hidden_rows(h, leading)
    wide_bias = None if bias is None else widen(bias)
    return narrow(_log_prob(hidden, widen(weight), wide_bias, x, leading), h.dtype)


def _leading(operation: str, name: str, hidden: Array, x: Array) -> tuple[int, ...]:
    """The common leading shape of what a layer is given, called ``name``, and of the observations."""
    try:
        return np.broadcast_shapes(hidden.shape[:-1], x.shape[:-1])
    except ValueError:
        raise ValueError(
            f"{operation}: leading shapes do not broadcast: got {name} {hidden.shape}, x {x.shape}"
        ) from None


def _hidden_rows(hidden: Array, leading: tuple[int, ...]) -> Array:
    """A row for each row of the result, in the dtype of the arithmetic."""
    features = hidden.shape[-1]
    return np.broadcast_to(widen(hidden), (*leading, features)).reshape(math.prod(leading), features)


def _product(rows: Array, weight: Array) -> Array:
    # NumPy warns of what flags of the processor say, which lanes of its registers that are not used may set, too.
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(rows @ weight.T)


def _log_prob(rows: Array, weight: Array, bias: Array | None, x: Array, leading: tuple[int, ...]) -> Array:
    """The log-likelihood of the observations for the logits of a last layer."""
    targets = np.broadcast_to(widen(x), (*leading, x.shape[-1]))
    out: Array = _NATIVE.bernoulli_epilogue(_product(rows, weight), bias, targets, False)
    return out


def _layers(
    operation: str, named: dict[str, Array], weights: Any, biases: Any, activation: object
) -> tuple[list[Array], list[tuple[Array, Array | None]]]:
    """The arrays, and weights and biases in the dtype of the arithmetic, after a check of all arguments."""
    layers = read_layers(operation, weights, biases, activation, (list, tuple), "numpy.ndarray")
    first, count = next(iter(named)), len(named)
    for i, (weight, bias) in enumerate(layers):
        named = named | {f"weights[{i}]": weight} | ({} if bias is None else {f"biases[{i}]": bias})
    found = check_arrays(operation, named)
    layers = [(found[f"weights[{i}]"], found.get(f"biases[{i}]")) for i in range(len(layers))]
    check_layers(operation, first, found[first], layers)
    wide = [(widen(weight), None if bias is None else widen(bias)) for weight, bias in layers]
    return list(found.values())[:count], wide


def mlp(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None = None,
    activation: str = "tanh",
    activate_last: bool = False,
) -> Array:
    """A multilayer perceptron, as :func:`fastvi.mlp`.

    The matrix products are NumPy's: their rounding, and no more, may differ from that of PyTorch's.

    Raises: see :func:`fastvi.mlp`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.mlp(np.ones((5, 3, 4)), [np.ones((6, 4)), np.ones((2, 6))], activation="relu")[0, 0]
    array([24., 24.])
    """
    (x,), layers = _layers("mlp", {"x": x}, weights, biases, activation)
    activate = check_flag("mlp", "activate_last", activate_last)
    rows = widen(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    for i, (weight, bias) in enumerate(layers):
        rows = _product(rows, weight)
        is_active = i + 1 < len(layers) or activate
        _NATIVE.activate_layer(rows, INDICES[activation] if is_active else IDENTITY, bias, None, None)
    return narrow(rows.reshape(*x.shape[:-1], rows.shape[1]), x.dtype)


def mlp_bernoulli_log_prob(
    z: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None,
    x: Observations,
    activation: str = "tanh",
    validate_args: bool = False,
) -> Array:
    """``bernoulli_log_prob(x, mlp(z, weights, biases, activation))``, as :func:`fastvi.mlp_bernoulli_log_prob`.

    The matrix products are NumPy's: their rounding, and no more, may differ from that of PyTorch's.

    Raises: see :func:`fastvi.mlp_bernoulli_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> weights = [np.ones((6, 4)), np.ones((2, 6))]
    >>> fastvi.numpy.mlp_bernoulli_log_prob(np.zeros((5, 3, 4)), weights, None, np.ones((3, 2))).shape
    (5, 3)
    """
    operation = "mlp_bernoulli_log_prob"
    targets: Any = of_truth(x, z)
    (z, x), layers = _layers(operation, {"z": z, "x": targets}, weights, biases, activation)
    if check_flag(operation, "validate_args", validate_args):
        check_observations(operation, x)
    features = layers[-1][0].shape[0]
    if x.ndim == 0 or x.shape[-1] != features:
        raise ValueError(
            f"{operation}: x has shape {x.shape}, expected (..., {features}) for the {features} features of the last "
            "layer"
        )
    leading = _leading(operation, "z", z, x)
    rows = _hidden_rows(z, leading)
    for weight, bias in layers[:-1]:
        rows = _product(rows, weight)
        _NATIVE.activate_layer(rows, INDICES[activation], bias, None, None)
    return narrow(_log_prob(rows, *layers[-1], x, leading), z.dtype)

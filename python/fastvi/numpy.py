"""The operations of :mod:`fastvi.ops` on NumPy arrays: the same kernels and numbers, forward only, without PyTorch.

Arrays are float32, float64 or float16, of any strides. Results are new arrays; what has no dimension left is an array
of shape ``()``. A seed of None is drawn from the operating system's entropy: NumPy's generators have no say in it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastvi import _native
from fastvi._layout import broadcast_shapes, plan_axis, plan_rows
from fastvi._running import RunningLogMeanExp, Summary
from fastvi._sizes import (
    MAX_SEED,
    check_counters,
    check_flag,
    check_integer,
    check_number,
    check_seed,
    check_shape,
    check_size,
)

if TYPE_CHECKING:
    from fastvi._kernels import Factor, Kernels, View

__all__ = [
    "LogMeanExp",
    "bernoulli_log_prob",
    "effective_sample_size",
    "importance_weights",
    "kinetic_energy",
    "kl_normal",
    "leapfrog_step",
    "linear_bernoulli_log_prob",
    "log_mean_exp",
    "normal_entropy",
    "normal_log_prob",
    "rsample_normal",
    "rsample_normal_with_log_ratio",
    "standard_normal",
]

Array: TypeAlias = NDArray[np.floating[Any]]

_NO_VIEW = (0, 0, 0)
_PARAMETER_NAMES = ("mean", "logvar", "prior_mean", "prior_logvar")

_native_module = _native.module()
_KERNELS: dict[np.dtype[Any], Kernels] = {
    np.dtype(np.float32): _native_module.float32,
    np.dtype(np.float64): _native_module.float64,
    np.dtype(np.float16): _native_module.float16,
}
_DTYPE_NAMES = "float32, float64 or float16"


def _check_arrays(operation: str, names: Sequence[str], arrays: Sequence[object]) -> None:
    """Reject anything but floating-point arrays of one dtype; None is passed over."""
    first: Array | None = None
    for name, array in zip(names, arrays, strict=True):
        if array is None:
            continue
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{operation}: {name} must be a numpy.ndarray, got {type(array).__name__}")
        if array.dtype not in _KERNELS:
            raise TypeError(f"{operation}: {name} has dtype {array.dtype}, expected {_DTYPE_NAMES}")
        if first is None:
            first, first_name = array, name
        elif array.dtype != first.dtype:
            raise TypeError(f"{operation}: {name} has dtype {array.dtype}, but {first_name} has {first.dtype}")


def _seed_array(operation: str, seed: int | None) -> NDArray[np.int64]:
    """The seed where the kernels read it: in an array of one number."""
    if seed is None:
        return np.array(secrets.randbelow(MAX_SEED), dtype=np.int64)
    return np.array(check_seed(operation, seed, "an int or None"), dtype=np.int64)


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def _compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the arithmetic on arrays of ``dtype``."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _widen(array: Array) -> Array:
    return array.astype(_compute_dtype(array.dtype), copy=False)


def _dense(array: Array) -> Array:
    """The array itself, or a copy, in C order at addresses that are multiples of the element's size."""
    return np.require(array, None, ["C_CONTIGUOUS", "ALIGNED"])


class _Rows:
    """Operands that broadcast over ``(samples, rows)`` and are summed, or drawn, over their last dimension."""

    def __init__(
        self, operation: str, names: Sequence[str], arrays: Sequence[Array], sample_rank: int | None = None
    ) -> None:
        # Kernels step by whole elements: what does not (a field of a packed record) is copied.
        steps_evenly = [a.flags.aligned and all(stride % a.itemsize == 0 for stride in a.strides) for a in arrays]
        arrays = [a if even else a.copy() for a, even in zip(arrays, steps_evenly, strict=True)]
        layouts: list[tuple[int, ...]] = []
        for array in arrays:
            layouts.append(array.shape)
            layouts.append(tuple(stride // array.itemsize for stride in array.strides))
        plan = plan_rows(operation, tuple(names), tuple(layouts), sample_rank)
        self.leading, self.extent = plan.leading, plan.extent
        self.held = [  # copies live as long as the views that point into them
            array if copy is None else _dense(np.broadcast_to(array, copy))
            for array, copy in zip(arrays, plan.copies, strict=True)
        ]
        self.views: list[View] = [
            (_address(array), *strides) for array, strides in zip(self.held, plan.strides, strict=True)
        ]


def _present(names: Sequence[str], arrays: Sequence[Array | None]) -> tuple[tuple[str, ...], list[Array]]:
    """Names and arrays of the arguments that were given."""
    given = [(name, array) for name, array in zip(names, arrays, strict=True) if array is not None]
    return tuple(name for name, _ in given), [array for _, array in given]


def _complete_prior(prior_mean: Array | None, prior_logvar: Array | None) -> tuple[Array | None, Array | None]:
    """A prior with one parameter given gets the standard normal's other one."""
    if prior_mean is None and prior_logvar is not None:
        prior_mean = np.zeros(1, prior_logvar.dtype)
    elif prior_logvar is None and prior_mean is not None:
        prior_logvar = np.zeros(1, prior_mean.dtype)
    return prior_mean, prior_logvar


def standard_normal(shape: int | Sequence[int], seed: int | None = None, *, dtype: DTypeLike = np.float64) -> Array:
    """Draws from N(0, 1), as :func:`fastvi.standard_normal`; float64 by default, as everywhere in NumPy.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> draws = fastvi.numpy.standard_normal((2, 3), seed=1)
    >>> bool(np.all(draws.ravel()[:4] == fastvi.numpy.standard_normal(4, seed=1)))
    True
    """
    sizes = check_shape("standard_normal", "shape", shape)
    if dtype is not None and not isinstance(dtype, str | type | np.dtype):
        raise TypeError(f"standard_normal: dtype must be one of NumPy's, got {type(dtype).__name__}")
    try:
        kernels = _KERNELS[np.dtype(dtype)]
    except (KeyError, TypeError):
        raise TypeError(f"standard_normal: dtype is {dtype!r}, expected {_DTYPE_NAMES}") from None
    seeds = _seed_array("standard_normal", seed)
    out: Array = np.empty(sizes, dtype)
    kernels.standard_normal(_address(out), out.size, _address(seeds))
    return out


def rsample_normal(
    mean: Array,
    logvar: Array,
    sample_shape: int | Sequence[int] = (),
    seed: int | None = None,
    row_offset: int = 0,
) -> Array:
    """Samples ``mean + exp(logvar / 2) * eps`` of a diagonal Gaussian, as :func:`fastvi.rsample_normal`.

    Returns
    -------
    Array
        Shape ``sample_shape`` + (..., D).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> whole = fastvi.numpy.rsample_normal(np.zeros((4, 2)), np.zeros((4, 2)), (3,), seed=7)
    >>> shard = fastvi.numpy.rsample_normal(np.zeros((2, 2)), np.zeros((2, 2)), (3,), seed=7, row_offset=2)
    >>> bool(np.all(whole[:, 2:] == shard))
    True
    """
    operation, names = "rsample_normal", ("mean", "logvar")
    _check_arrays(operation, names, (mean, logvar))
    samples = check_shape(operation, "sample_shape", sample_shape)
    row_offset = check_size(operation, "row_offset", row_offset)
    seeds = _seed_array(operation, seed)
    rows = _Rows(operation, names, (mean, logvar), sample_rank=0)
    _, count, columns = rows.extent
    check_counters(operation, math.prod(samples), columns)
    z: Array = np.empty((*samples, *rows.leading, columns), mean.dtype)
    extent = (math.prod(samples), count, columns)
    mean_view, logvar_view = rows.views
    _KERNELS[mean.dtype].rsample_normal(extent, mean_view, logvar_view, _address(seeds), row_offset, _address(z))
    return z


def kl_normal(
    mean: Array,
    logvar: Array,
    prior_mean: Array | None = None,
    prior_logvar: Array | None = None,
    free_bits: float = 0.0,
) -> Array:
    """KL divergence of diagonal Gaussians in nats, over the last dimension, as :func:`fastvi.kl_normal`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.kl_normal(np.ones((2, 3)), np.zeros((2, 3)))
    array([1.5, 1.5])
    """
    operation = "kl_normal"
    _check_arrays(operation, _PARAMETER_NAMES, (mean, logvar, prior_mean, prior_logvar))
    free_bits = check_number(operation, "free_bits", free_bits)
    if not free_bits >= 0.0:
        raise ValueError(f"{operation}: free_bits is {free_bits}, expected a non-negative number of nats")
    prior_mean, prior_logvar = _complete_prior(prior_mean, prior_logvar)
    rows = _Rows(operation, *_present(_PARAMETER_NAMES, (mean, logvar, prior_mean, prior_logvar)))
    out: Array = np.empty(rows.leading, mean.dtype)
    m, v, prior_m, prior_v = [*rows.views, _NO_VIEW, _NO_VIEW][:4]
    _KERNELS[mean.dtype].kl_normal(rows.extent, m, v, prior_m, prior_v, free_bits, _address(out))
    return out


def normal_log_prob(x: Array, mean: Array, logvar: Array) -> Array:
    """Log density of a diagonal Gaussian in nats, over the last dimension, as :func:`fastvi.normal_log_prob`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.normal_log_prob(np.zeros((5, 1, 2)), np.zeros((3, 2)), np.zeros((3, 2))).shape
    (5, 3)
    """
    names = ("x", "mean", "logvar")
    _check_arrays("normal_log_prob", names, (x, mean, logvar))
    rows = _Rows("normal_log_prob", names, (x, mean, logvar))
    out: Array = np.empty(rows.leading, x.dtype)
    x_view, mean_view, logvar_view = rows.views
    _KERNELS[x.dtype].normal_log_prob(rows.extent, x_view, mean_view, logvar_view, _address(out))
    return out


def normal_entropy(logvar: Array) -> Array:
    """Entropy of a diagonal Gaussian in nats, over the last dimension, as :func:`fastvi.normal_entropy`.

    Raises
    ------
    TypeError, ValueError
        If the argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> bool(np.isclose(fastvi.numpy.normal_entropy(np.zeros(2)), 1 + np.log(2 * np.pi)))
    True
    """
    _check_arrays("normal_entropy", ("logvar",), (logvar,))
    rows = _Rows("normal_entropy", ("logvar",), (logvar,))
    out: Array = np.empty(rows.leading, logvar.dtype)
    _KERNELS[logvar.dtype].normal_entropy(rows.extent, rows.views[0], _address(out))
    return out


def rsample_normal_with_log_ratio(
    mean: Array,
    logvar: Array,
    num_samples: int,
    prior_mean: Array | None = None,
    prior_logvar: Array | None = None,
    detach_posterior: bool = False,
    seed: int | None = None,
    row_offset: int = 0,
) -> tuple[Array, Array]:
    """Samples z of q and ``log p(z) - log q(z)``, as :func:`fastvi.rsample_normal_with_log_ratio`.

    ``detach_posterior`` is about gradients, of which there are none here: it changes nothing.

    Returns
    -------
    tuple[Array, Array]
        z of shape (K, ..., D), and the log ratio in nats, of shape (K, ...).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> mean, logvar = np.zeros((4, 2)), np.zeros((4, 2))
    >>> z, log_ratio = fastvi.numpy.rsample_normal_with_log_ratio(mean, logvar, 5, seed=0)
    >>> z.shape, bool(np.abs(log_ratio).max() < 1e-12)  # q is the prior
    ((5, 4, 2), True)
    """
    operation = "rsample_normal_with_log_ratio"
    _check_arrays(operation, _PARAMETER_NAMES, (mean, logvar, prior_mean, prior_logvar))
    num_samples = check_size(operation, "num_samples", num_samples)
    row_offset = check_size(operation, "row_offset", row_offset)
    seeds = _seed_array(operation, seed)
    prior_mean, prior_logvar = _complete_prior(prior_mean, prior_logvar)
    names, parameters = _present(_PARAMETER_NAMES, (mean, logvar, prior_mean, prior_logvar))
    rows = _Rows(operation, names, parameters, sample_rank=0)
    _, count, columns = rows.extent
    check_counters(operation, num_samples, columns)
    z: Array = np.empty((num_samples, *rows.leading, columns), mean.dtype)
    log_ratio: Array = np.empty((num_samples, *rows.leading), mean.dtype)
    m, v, prior_m, prior_v = [*rows.views, _NO_VIEW, _NO_VIEW][:4]
    _KERNELS[mean.dtype].rsample_normal_with_log_ratio(
        (num_samples, count, columns),
        m,
        v,
        prior_m,
        prior_v,
        _address(seeds),
        row_offset,
        _address(z),
        _address(log_ratio),
    )
    return z, log_ratio


def _check_observations(operation: str, x: Array) -> None:
    """Reject values outside [0, 1], NaN among them."""
    if x.size and not (x.min() >= 0.0 and x.max() <= 1.0):
        values = "NaN among them" if np.isnan(x).any() else f"values from {x.min():g} to {x.max():g}"
        raise ValueError(f"{operation}: x must lie in [0, 1], got {values}")


def bernoulli_log_prob(x: Array, logits: Array, validate_args: bool = False) -> Array:
    """Bernoulli log-likelihood in nats, over the last dimension, as :func:`fastvi.bernoulli_log_prob`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.bernoulli_log_prob(np.ones((3, 2)), np.zeros((5, 3, 2))).shape
    (5, 3)
    """
    names = ("x", "logits")
    _check_arrays("bernoulli_log_prob", names, (x, logits))
    if check_flag("bernoulli_log_prob", "validate_args", validate_args):
        _check_observations("bernoulli_log_prob", x)
    rows = _Rows("bernoulli_log_prob", names, (x, logits))
    out: Array = np.empty(rows.leading, x.dtype)
    x_view, logits_view = rows.views
    _KERNELS[x.dtype].bernoulli_log_prob(rows.extent, x_view, logits_view, _address(out))
    return out


def linear_bernoulli_log_prob(
    h: Array, weight: Array, bias: Array | None, x: Array, validate_args: bool = False
) -> Array:
    """``bernoulli_log_prob(x, h @ weight.T + bias)``, as :func:`fastvi.linear_bernoulli_log_prob`.

    The matrix product is NumPy's: its rounding, and no more, may differ from that of PyTorch's.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> h, weight, x = np.zeros((5, 3, 4)), np.ones((6, 4)), np.ones((3, 6))
    >>> fastvi.numpy.linear_bernoulli_log_prob(h, weight, None, x).shape
    (5, 3)
    """
    operation = "linear_bernoulli_log_prob"
    _check_arrays(operation, ("h", "weight", "bias", "x"), (h, weight, bias, x))
    if check_flag(operation, "validate_args", validate_args):
        _check_observations(operation, x)
    if weight.ndim != 2:
        raise ValueError(f"{operation}: weight has shape {weight.shape}, expected (features of x, features of h)")
    features_out, features_in = weight.shape
    for name, array, features in (("h", h, features_in), ("x", x, features_out)):
        if array.ndim == 0 or array.shape[-1] != features:
            raise ValueError(
                f"{operation}: {name} has shape {array.shape}, expected (..., {features}) for weight {weight.shape}"
            )
    if bias is not None and bias.shape != (features_out,):
        raise ValueError(f"{operation}: bias has shape {bias.shape}, expected ({features_out},)")
    dtype, h, weight, x = h.dtype, _widen(h), _widen(weight), _widen(x)
    bias = None if bias is None else _widen(bias)
    leading = broadcast_shapes(operation, ("leading axes of h", "leading axes of x"), (h.shape[:-1], x.shape[:-1]))
    hidden = np.broadcast_to(h, (*leading, features_in)).reshape(math.prod(leading), features_in)
    logits = _dense(hidden @ weight.T)
    rows = _Rows(operation, ("x",), (np.broadcast_to(x, (*leading, features_out)),))
    bias = None if bias is None else _dense(bias)
    bias_address = 0 if bias is None else _address(bias)
    out: Array = np.empty(leading, logits.dtype)
    _KERNELS[logits.dtype].bernoulli_epilogue(
        rows.extent, _address(logits), bias_address, rows.views[0], False, _address(out)
    )
    return out.astype(dtype, copy=False)


def _axis(operation: str, name: str, array: Array, dim: object) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """``((outer, count, inner), shape without dim)``, after a check of both arguments."""
    _check_arrays(operation, (name,), (array,))
    return plan_axis(operation, array.shape, check_integer(operation, "dim", dim))


def log_mean_exp(x: Array, dim: int = 0) -> Array:
    """Stable logarithm of the mean of the exponentials over ``dim``, as :func:`fastvi.log_mean_exp`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.log_mean_exp(np.array([[1000.0, 0.0], [1000.0, 0.0]]), dim=0)
    array([1000.,    0.])
    """
    extent, shape = _axis("log_mean_exp", "x", x, dim)
    x = _dense(x)
    out: Array = np.empty(shape, x.dtype)
    _KERNELS[x.dtype].log_mean_exp(extent, _address(x), _address(out))
    return out


def importance_weights(log_w: Array, dim: int = 0) -> Array:
    """Weights proportional to ``exp(log_w)`` that sum to one over ``dim``, as :func:`fastvi.importance_weights`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.importance_weights(np.zeros((4, 2)))[0]
    array([0.25, 0.25])
    """
    extent, _ = _axis("importance_weights", "log_w", log_w, dim)
    log_w = _dense(log_w)
    out: Array = np.empty(log_w.shape, log_w.dtype)
    _KERNELS[log_w.dtype].scaled_softmax(extent, _address(log_w), 0, False, _address(out))
    return out


def effective_sample_size(log_w: Array, dim: int = 0) -> Array:
    """``1 / sum(w**2)`` of the normalised weights over ``dim``, as :func:`fastvi.effective_sample_size`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> float(fastvi.numpy.effective_sample_size(np.zeros(4)))
    4.0
    """
    extent, shape = _axis("effective_sample_size", "log_w", log_w, dim)
    log_w = _dense(log_w)
    out: Array = np.empty(shape, log_w.dtype)
    _KERNELS[log_w.dtype].effective_sample_size(extent, _address(log_w), _address(out))
    return out


class LogMeanExp(RunningLogMeanExp[Array]):
    """Running log-mean-exp over chunks of log-weights, as :class:`fastvi.LogMeanExp`.

    Chunks are joined in float64 by NumPy's own exponentials, whose last digit may differ from PyTorch's.

    Parameters
    ----------
    dim
        The sampling axis of the chunks.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> running = fastvi.numpy.LogMeanExp()
    >>> for _ in range(10):
    ...     running = running.update(np.zeros((500, 3)))
    >>> running.count, running.value, running.ess
    (5000, array([0., 0., 0.]), array([5000., 5000., 5000.]))
    """

    _library: ClassVar[Any] = np

    def _summarise(self, chunk: Array) -> Summary:
        (_, count, _), _ = _axis("LogMeanExp.update", "chunk", chunk, self.dim)
        wide = _widen(chunk)
        log_sum = log_mean_exp(wide, self.dim).astype(np.float64) + math.log(count)
        return Summary(count, chunk.dtype, log_sum, 1.0 / effective_sample_size(wide, self.dim).astype(np.float64))

    def _add(self, added: Summary) -> None:
        with np.errstate(invalid="ignore"):  # NaN and infinite weights are answered, not warned of
            super()._add(added)

    def _round(self, result: Array, dtype: np.dtype[Any]) -> Array:
        return np.asarray(result, dtype)


def _as_factor(operation: str, names: tuple[str, str], value: object, like: Array) -> Array:
    """An array like the other one of the two names, or a number as one, which half precision would round."""
    name = names[1]
    if isinstance(value, np.ndarray):
        _check_arrays(operation, names, (like, value))
        return _widen(value)
    number = check_number(operation, name, value, "a numpy.ndarray or a number")
    with np.errstate(over="ignore"):  # a number too large for the dtype is infinite
        return np.array(number).astype(_compute_dtype(like.dtype))


def leapfrog_step(
    q: Array,
    p: Array,
    grad: Array,
    step_size: Array | float,
    inverse_mass: Array | float | None = None,
    kick: float = 0.5,
) -> tuple[Array, Array]:
    """Kick ``p' = p - kick * step_size * grad`` and drift ``q' = q + step_size * inverse_mass * p'``.

    As :func:`fastvi.leapfrog_step`.

    Returns
    -------
    tuple[Array, Array]
        New positions and momenta, of the broadcast shape.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> q, p = np.ones(2), np.zeros(2)
    >>> fastvi.numpy.leapfrog_step(q, p, grad=q, step_size=0.1)
    (array([0.995, 0.995]), array([-0.05, -0.05]))
    """
    operation, state_names, factor_names = "leapfrog_step", ("q", "p", "grad"), ("step_size", "inverse_mass")
    _check_arrays(operation, state_names, (q, p, grad))
    factors = [_as_factor(operation, ("q", "step_size"), step_size, q)]
    if inverse_mass is not None:
        factors.append(_as_factor(operation, ("q", "inverse_mass"), inverse_mass, q))
    names = (*state_names, *factor_names[: len(factors)])
    given = (q, p, grad, *factors)
    full = broadcast_shapes(operation, names, tuple(array.shape for array in given))
    if len(full) == 0:
        raise ValueError(f"{operation}: q has no dimension; expected the position's in the last one")
    by_column = [factor.ndim > 0 and factor.shape[-1] == full[-1] > 1 for factor in factors]
    states = [np.broadcast_to(array, full) for array in (q, p, grad)]
    columns = [factor for factor, column in zip(factors, by_column, strict=True) if column]
    rows = _Rows(operation, (*state_names, *("factor",) * len(columns)), states + columns, sample_rank=0)
    position_view, momentum_view, gradient_view, *column_views = rows.views

    held = []  # as in _Rows
    views: list[Factor] = []
    for factor, column in zip(factors, by_column, strict=True):
        if column:
            address, _, row_stride = column_views.pop(0)
            views.append((address, row_stride, 1))
        else:
            by_row = _dense(factor if factor.size == 1 else np.broadcast_to(factor, (*full[:-1], 1)))
            held.append(by_row)
            views.append((_address(by_row), int(factor.size != 1), 0))
    step_view, mass_view = [*views, _NO_VIEW][:2]

    new_position: Array = np.empty(full, q.dtype)
    new_momentum: Array = np.empty(full, q.dtype)
    _, count, width = rows.extent
    _KERNELS[q.dtype].leapfrog_step(
        count,
        width,
        position_view,
        momentum_view,
        gradient_view,
        step_view,
        mass_view,
        check_number(operation, "kick", kick),
        _address(new_position),
        _address(new_momentum),
    )
    return new_position, new_momentum


def kinetic_energy(p: Array, inverse_mass: Array | float | None = None) -> Array:
    """Half the sum of ``p**2 * inverse_mass`` over the last dimension, as :func:`fastvi.kinetic_energy`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as there.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.kinetic_energy(np.array([[3.0, 4.0]]))
    array([12.5])
    """
    operation, names = "kinetic_energy", ("p", "inverse_mass")
    _check_arrays(operation, ("p",), (p,))
    mass, dtype = None, p.dtype
    if inverse_mass is not None:
        mass = _as_factor(operation, names, inverse_mass, p)
        mass, p = mass.reshape(1) if mass.ndim == 0 else mass, _widen(p)
    rows = _Rows(operation, *_present(names, (p, mass)))
    out: Array = np.empty(rows.leading, p.dtype)
    momentum_view, mass_view = [*rows.views, _NO_VIEW][:2]
    _KERNELS[p.dtype].kinetic_energy(rows.extent, momentum_view, mass_view, _address(out))
    return out.astype(dtype, copy=False)

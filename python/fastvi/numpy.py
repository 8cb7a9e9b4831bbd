"""The operations of :mod:`fastvi.ops` on NumPy arrays: the same kernels and numbers, forward only, without PyTorch.

Arrays are float32, float64 or float16, of any strides. A parameter that is the same everywhere may be a number, which
takes the dtype of the arrays; Bernoulli observations may be truth values. Results are new arrays; one without
dimensions is an array of shape ``()``, too. A seed is a number or a `numpy.random.Generator`, from which the seed is
drawn; None takes it from the operating system's entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastvi import _native
from fastvi._array_arguments import Number, Seed, seed_of, with_numbers
from fastvi._array_products import (
    DTYPE_NAMES,
    DTYPES,
    Array,
    Observations,
    check_array,
    check_counts,
    check_observations,
    compute_dtype,
    is_array,
    linear_bernoulli_log_prob,
    mlp,
    mlp_bernoulli_log_prob,
    narrow,
    of_truth,
    plain,
    widen,
)
from fastvi._running import RunningLogMeanExp, Summary, finite_or_zero, summarise
from fastvi._sizes import check_flag, check_integer, check_number, check_shape, choose_axis, refuse_negative

__all__ = [
    "LogMeanExp",
    "bernoulli_log_prob",
    "continuous_bernoulli_log_prob",
    "effective_sample_size",
    "importance_weights",
    "kinetic_energy",
    "kl_normal",
    "laplace_log_prob",
    "leapfrog_step",
    "linear_bernoulli_log_prob",
    "log_mean_exp",
    "mlp",
    "mlp_bernoulli_log_prob",
    "momentum_kick",
    "negative_binomial_log_prob",
    "normal_entropy",
    "normal_log_prob",
    "poisson_log_prob",
    "rsample_normal",
    "rsample_normal_with_log_ratio",
    "soft_threshold",
    "standard_normal",
    "zero_inflated_negative_binomial_log_prob",
]

_NATIVE = _native.module().numpy


def _complete_prior(mean: Any, prior_mean: Any, prior_logvar: Any) -> tuple[Any, Any]:
    """A prior with one parameter given gets the standard normal's other one, in the dtype that both should have."""
    if (prior_mean is None) != (prior_logvar is None) and is_array(mean):
        zeros = np.zeros(1, mean.dtype)
        return (zeros, prior_logvar) if prior_mean is None else (prior_mean, zeros)
    return prior_mean, prior_logvar


def standard_normal(shape: int | Sequence[int], seed: Seed = None, *, dtype: DTypeLike = np.float64) -> Array:
    """Draws from N(0, 1), as :func:`fastvi.standard_normal`; float64 by default, as everywhere in NumPy.

    Raises: see :func:`fastvi.standard_normal`.

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
        known = np.dtype(dtype) in DTYPES
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"standard_normal: dtype is {dtype!r}, expected {DTYPE_NAMES}")
    try:
        out: Array = np.empty(sizes, dtype)
    except (MemoryError, ValueError) as error:
        if isinstance(error, ValueError) and math.prod(sizes) < 2**60:  # NumPy 1 has arrays of 32 dimensions at most
            raise
        what = f"shape {sizes} and dtype {np.dtype(dtype)}"
        raise MemoryError(f"standard_normal: no memory for a result of {what}") from None
    _NATIVE.fill_standard_normal(out, seed_of("standard_normal", seed))
    return out


def rsample_normal(
    mean: Number,
    logvar: Number,
    sample_shape: int | Sequence[int] = (),
    seed: Seed = None,
    row_offset: int = 0,
) -> Array:
    """Samples ``mean + exp(logvar / 2) * eps`` of a diagonal Gaussian, as :func:`fastvi.rsample_normal`.

    Raises: see :func:`fastvi.rsample_normal`.

    Returns
    -------
    Array
        Shape ``sample_shape`` + (..., D).

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> whole = fastvi.numpy.rsample_normal(np.zeros((4, 2)), np.zeros((4, 2)), (3,), seed=7)
    >>> shard = fastvi.numpy.rsample_normal(np.zeros((2, 2)), np.zeros((2, 2)), (3,), seed=7, row_offset=2)
    >>> bool(np.all(whole[:, 2:] == shard))
    True
    """
    operation = "rsample_normal"
    mean, logvar = with_numbers(operation, {}, {"mean": mean, "logvar": logvar})
    result: Array = _NATIVE.rsample_normal(mean, logvar, seed_of(operation, seed), sample_shape, row_offset)
    return result


def kl_normal(
    mean: Number,
    logvar: Number,
    prior_mean: Number | None = None,
    prior_logvar: Number | None = None,
    free_bits: float = 0.0,
) -> Array:
    """KL divergence of diagonal Gaussians in nats, over the last dimension, as :func:`fastvi.kl_normal`.

    Raises: see :func:`fastvi.kl_normal`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.kl_normal(np.ones((2, 3)), np.zeros((2, 3)))
    array([1.5, 1.5])
    """
    mean, logvar, prior_mean, prior_logvar = with_numbers(
        "kl_normal",
        {},
        {"mean": mean, "logvar": logvar, "prior_mean": prior_mean, "prior_logvar": prior_logvar},
    )
    result: Array = _NATIVE.kl_normal(mean, logvar, *_complete_prior(mean, prior_mean, prior_logvar), free_bits)
    return result


def normal_log_prob(x: Array, mean: Number, logvar: Number) -> Array:
    """Log density of a diagonal Gaussian in nats, over the last dimension, as :func:`fastvi.normal_log_prob`.

    Raises: see :func:`fastvi.normal_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.normal_log_prob(np.zeros((5, 1, 2)), np.zeros((3, 2)), np.zeros((3, 2))).shape
    (5, 3)
    """
    mean, logvar = with_numbers("normal_log_prob", {"x": x}, {"mean": mean, "logvar": logvar})
    result: Array = _NATIVE.normal_log_prob(x, mean, logvar)
    return result


def normal_entropy(logvar: Array) -> Array:
    """Entropy of a diagonal Gaussian in nats, over the last dimension, as :func:`fastvi.normal_entropy`.

    Raises: see :func:`fastvi.normal_entropy`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> bool(np.isclose(fastvi.numpy.normal_entropy(np.zeros(2)), 1 + np.log(2 * np.pi)))
    True
    """
    result: Array = _NATIVE.normal_entropy(logvar)
    return result


def laplace_log_prob(x: Array, loc: Number, log_scale: Number) -> Array:
    """Log density of a diagonal Laplace distribution in nats, over the last dimension.

    As :func:`fastvi.laplace_log_prob`.

    Raises: see :func:`fastvi.laplace_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> float(fastvi.numpy.laplace_log_prob(np.zeros(3), np.zeros(3), np.zeros(3)) + 3 * np.log(2))
    0.0
    """
    loc, log_scale = with_numbers("laplace_log_prob", {"x": x}, {"loc": loc, "log_scale": log_scale})
    result: Array = _NATIVE.laplace_log_prob(x, loc, log_scale)
    return result


def rsample_normal_with_log_ratio(
    mean: Number,
    logvar: Number,
    num_samples: int,
    prior_mean: Number | None = None,
    prior_logvar: Number | None = None,
    detach_posterior: bool = False,
    seed: Seed = None,
    row_offset: int = 0,
) -> tuple[Array, Array]:
    """Samples z of q and ``log p(z) - log q(z)``, as :func:`fastvi.rsample_normal_with_log_ratio`.

    ``detach_posterior`` is about gradients, of which there are none here: it changes nothing.

    Raises: see :func:`fastvi.rsample_normal_with_log_ratio`.

    Returns
    -------
    tuple[Array, Array]
        z of shape (K, ..., D), and the log ratio in nats, of shape (K, ...).

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> mean, logvar = np.zeros((4, 2)), np.zeros((4, 2))
    >>> z, log_ratio = fastvi.numpy.rsample_normal_with_log_ratio(mean, logvar, 5, seed=0)
    >>> z.shape, bool(np.abs(log_ratio).max() < 1e-12)  # q is the prior
    ((5, 4, 2), True)
    """
    operation = "rsample_normal_with_log_ratio"
    mean, logvar, prior_mean, prior_logvar = with_numbers(
        operation,
        {},
        {"mean": mean, "logvar": logvar, "prior_mean": prior_mean, "prior_logvar": prior_logvar},
    )
    prior = _complete_prior(mean, prior_mean, prior_logvar)
    z, log_ratio = _NATIVE.rsample_normal_with_log_ratio(
        mean, logvar, *prior, seed_of(operation, seed), num_samples, detach_posterior, row_offset
    )
    return z, log_ratio


def bernoulli_log_prob(x: Observations, logits: Number, validate_args: bool = False) -> Array:
    """Bernoulli log-likelihood in nats, over the last dimension, as :func:`fastvi.bernoulli_log_prob`.

    Raises: see :func:`fastvi.bernoulli_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.bernoulli_log_prob(np.ones((3, 2)), np.zeros((5, 3, 2))).shape
    (5, 3)
    """
    (logits,) = with_numbers("bernoulli_log_prob", {"x": x}, {"logits": logits})
    x = of_truth(x, logits)
    if check_flag("bernoulli_log_prob", "validate_args", validate_args):
        check_observations("bernoulli_log_prob", x)
    result: Array = _NATIVE.bernoulli_log_prob(x, logits)
    return result


def continuous_bernoulli_log_prob(x: Array, logits: Number, validate_args: bool = False) -> Array:
    """Continuous Bernoulli log density in nats, over the last dimension.

    As :func:`fastvi.continuous_bernoulli_log_prob`.

    Raises: see :func:`fastvi.continuous_bernoulli_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.continuous_bernoulli_log_prob(np.full((2, 3), 0.25), np.zeros(3))
    array([0., 0.])
    """
    (logits,) = with_numbers("continuous_bernoulli_log_prob", {"x": x}, {"logits": logits})
    if check_flag("continuous_bernoulli_log_prob", "validate_args", validate_args):
        check_observations("continuous_bernoulli_log_prob", x)
    result: Array = _NATIVE.continuous_bernoulli_log_prob(x, logits)
    return result


def poisson_log_prob(x: Array, log_rate: Number, validate_args: bool = False) -> Array:
    """Poisson log-likelihood in nats, over the last dimension, as :func:`fastvi.poisson_log_prob`.

    Raises: see :func:`fastvi.poisson_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.poisson_log_prob(np.ones((3, 2)), np.zeros((5, 3, 2))).shape
    (5, 3)
    """
    (log_rate,) = with_numbers("poisson_log_prob", {"x": x}, {"log_rate": log_rate})
    check_counts("poisson_log_prob", x, None, validate_args)
    result: Array = _NATIVE.poisson_log_prob(x, log_rate)
    return result


def negative_binomial_log_prob(x: Array, total_count: Number, logits: Number, validate_args: bool = False) -> Array:
    """Negative binomial log-likelihood in nats, over the last dimension.

    As :func:`fastvi.negative_binomial_log_prob`.

    Raises: see :func:`fastvi.negative_binomial_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.negative_binomial_log_prob(np.ones((3, 2)), np.ones(2), np.zeros((5, 3, 2))).shape
    (5, 3)
    """
    total_count, logits = with_numbers(
        "negative_binomial_log_prob", {"x": x}, {"total_count": total_count, "logits": logits}
    )
    check_counts("negative_binomial_log_prob", x, total_count, validate_args)
    result: Array = _NATIVE.negative_binomial_log_prob(x, total_count, logits)
    return result


def zero_inflated_negative_binomial_log_prob(
    x: Array, total_count: Number, logits: Number, gate_logits: Number, validate_args: bool = False
) -> Array:
    """Log-likelihood of counts that are 0 more often than a negative binomial's, in nats, over the last dimension.

    As :func:`fastvi.zero_inflated_negative_binomial_log_prob`.

    Raises: see :func:`fastvi.zero_inflated_negative_binomial_log_prob`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> zeros, ones = np.zeros(2), np.ones(2)
    >>> fastvi.numpy.zero_inflated_negative_binomial_log_prob(np.ones((3, 2)), ones, zeros, zeros).shape
    (3,)
    """
    total_count, logits, gate_logits = with_numbers(
        "zero_inflated_negative_binomial_log_prob",
        {"x": x},
        {"total_count": total_count, "logits": logits, "gate_logits": gate_logits},
    )
    check_counts("zero_inflated_negative_binomial_log_prob", x, total_count, validate_args)
    result: Array = _NATIVE.zero_inflated_negative_binomial_log_prob(x, total_count, logits, gate_logits)
    return result


def log_mean_exp(x: Array, dim: int = 0, *, axis: int | None = None) -> Array:
    """Stable logarithm of the mean of the exponentials over ``dim``, as :func:`fastvi.log_mean_exp`.

    Raises: see :func:`fastvi.log_mean_exp`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.log_mean_exp(np.array([[1000.0, 0.0], [1000.0, 0.0]]), dim=0)
    array([1000.,    0.])
    """
    result: Array = _NATIVE.log_mean_exp(x, choose_axis("log_mean_exp", dim, axis))
    return result


def importance_weights(log_weights: Array, dim: int = 0, *, axis: int | None = None) -> Array:
    """Weights proportional to ``exp(log_weights)`` that sum to one over ``dim``, as :func:`fastvi.importance_weights`.

    Raises: see :func:`fastvi.importance_weights`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.importance_weights(np.zeros((4, 2)))[0]
    array([0.25, 0.25])
    """
    result: Array = _NATIVE.importance_weights(log_weights, choose_axis("importance_weights", dim, axis))
    return result


def effective_sample_size(log_weights: Array, dim: int = 0, *, axis: int | None = None) -> Array:
    """``1 / sum(w**2)`` of the normalised weights over ``dim``, as :func:`fastvi.effective_sample_size`.

    Raises: see :func:`fastvi.effective_sample_size`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> float(fastvi.numpy.effective_sample_size(np.zeros(4)))
    4.0
    """
    result: Array = _NATIVE.effective_sample_size(log_weights, choose_axis("effective_sample_size", dim, axis))
    return result


class LogMeanExp(RunningLogMeanExp[Array]):
    """Running log-mean-exp over chunks of log-weights, as :class:`fastvi.LogMeanExp`.

    Chunks are joined in float64 by NumPy's own exponentials, whose last digit may differ from PyTorch's.

    Parameters
    ----------
    dim, axis
        The sampling axis of the chunks, by either name.

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
        chunk = check_array("LogMeanExp.update", "chunk", chunk)
        dim, rank = check_integer("LogMeanExp.update", "dim", self.dim), chunk.ndim
        if not -rank <= dim < rank:
            raise ValueError(f"LogMeanExp.update: dim is {dim}, expected one of the {rank} dimensions of {chunk.shape}")
        count, wide = chunk.shape[dim], widen(chunk)
        if count == 0:
            raise ValueError(
                f"LogMeanExp.update: chunk has shape {chunk.shape}, expected elements along dimension {dim % rank}"
            )
        maximum = wide.max(self.dim, keepdims=True)
        relative = wide - finite_or_zero(np, maximum)
        total = np.exp(log_mean_exp(relative, self.dim).astype(np.float64)) * count
        effective = effective_sample_size(relative, self.dim).astype(np.float64)
        return summarise(np, count, chunk.dtype, maximum.squeeze(self.dim).astype(np.float64), total, effective)

    def _quiet(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")

    def _round(self, result: Array, dtype: np.dtype[Any]) -> Array:
        return np.asarray(result, dtype)


def _as_factor(operation: str, name: str, value: object) -> Any:
    """An array, or a number."""
    if is_array(value):
        return plain(value)
    return check_number(operation, name, value, "a numpy.ndarray or a number")


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

    Raises: see :func:`fastvi.leapfrog_step`.

    Returns
    -------
    tuple[Array, Array]
        New positions and momenta, of the broadcast shape.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> q, p = np.ones(2), np.zeros(2)
    >>> fastvi.numpy.leapfrog_step(q, p, grad=q, step_size=0.1)
    (array([0.995, 0.995]), array([-0.05, -0.05]))
    """
    operation = "leapfrog_step"
    q = check_array(operation, "q", q)
    step = _as_factor(operation, "step_size", step_size)
    mass = None if inverse_mass is None else _as_factor(operation, "inverse_mass", inverse_mass)
    if isinstance(mass, float):
        refuse_negative(operation, "inverse_mass", mass)
    position, momentum = _NATIVE.leapfrog_step(q, p, grad, step, mass, kick)
    return position, momentum


def momentum_kick(p: Array, grad: Array, step_size: Array | float, kick: float = 0.5) -> Array:
    """``p - kick * step_size * grad``, which closes a leapfrog trajectory, as :func:`fastvi.momentum_kick`.

    Raises: see :func:`fastvi.momentum_kick`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.momentum_kick(np.zeros(2), grad=np.ones(2), step_size=0.1)
    array([-0.05, -0.05])
    """
    p = check_array("momentum_kick", "p", p)
    result: Array = _NATIVE.momentum_kick(p, grad, _as_factor("momentum_kick", "step_size", step_size), kick)
    return result


def kinetic_energy(p: Array, inverse_mass: Array | float | None = None) -> Array:
    """Half the sum of ``p**2 * inverse_mass`` over the last dimension, as :func:`fastvi.kinetic_energy`.

    Raises: see :func:`fastvi.kinetic_energy`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.kinetic_energy(np.array([[3.0, 4.0]]))
    array([12.5])
    """
    p = check_array("kinetic_energy", "p", p)
    dtype, mass = p.dtype, inverse_mass
    if mass is not None:
        mass = _as_factor("kinetic_energy", "inverse_mass", mass)
        if isinstance(mass, float):
            refuse_negative("kinetic_energy", "inverse_mass", mass)
            p, mass = widen(p), narrow(np.array([mass]), compute_dtype(dtype))
        elif mass.ndim == 0:
            mass = mass.reshape(1)
    out: Array = _NATIVE.kinetic_energy(p, mass)
    return narrow(out, dtype)


def soft_threshold(x: Array, threshold: Array | float) -> Array:
    """``sign(x) * max(|x| - threshold, 0)`` for each element, as :func:`fastvi.soft_threshold`.

    Negative thresholds and NaN in an array give what they give there in a tensor.

    Raises: see :func:`fastvi.soft_threshold`.

    Examples
    --------
    >>> import numpy as np, fastvi.numpy
    >>> fastvi.numpy.soft_threshold(np.array([-3.0, 0.5, 2.0]), 1.0)
    array([-2.,  0.,  1.])
    """
    x = check_array("soft_threshold", "x", x)
    factor = _as_factor("soft_threshold", "threshold", threshold)
    if isinstance(factor, float):
        refuse_negative("soft_threshold", "threshold", factor)
    result: Array = _NATIVE.soft_threshold(x, factor)
    return result

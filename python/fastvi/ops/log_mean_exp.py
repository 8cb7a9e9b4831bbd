"""Log-mean-exp of the importance-weighted bound (Burda, Grosse, Salakhutdinov 2016), its weights, and their quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvi import reference
from fastvi._running import RunningLogMeanExp, Summary, finite_or_zero, summarise
from fastvi._sizes import check_integer, choose_axis
from fastvi.ops._backends import Functions, sum_over
from fastvi.ops._batching import batch_broadcasting
from fastvi.ops._checks import check_operands
from fastvi.ops._operation import Operation
from fastvi.ops._precision import widen
from fastvi.ops._private import tracing_state
from fastvi.ops._shapes import without_axis


def _check_axis(operation: str, name: str, tensor: Tensor, dim: object) -> tuple[Tensor, int]:
    """The tensor, and the dimension, counted from the front."""
    axis = check_integer(operation, "dim", dim)
    rank = tensor.dim()
    if not -rank <= axis < rank:
        raise ValueError(f"{operation}: dim is {axis}, expected one of the {rank} dimensions of {tuple(tensor.shape)}")
    axis %= rank
    # What torch.jit.trace records may have another size when it runs: the operator checks it then.
    if tracing_state() is None and tensor.shape[axis] == 0:
        raise ValueError(
            f"{operation}: {name} has shape {tuple(tensor.shape)}, expected elements along dimension {axis}"
        )
    return tensor, axis


def _next_dim(constants: tuple[Any, ...]) -> tuple[Any, ...]:
    """``dim`` behind a mapped axis that was put in front."""
    return (constants[0] + 1,)


def _normalise(operation: str, name: str) -> Callable[[Tensor, object], tuple[Tensor, int]]:
    return lambda tensor, dim: _check_axis(operation, name, tensor, dim)


def _formula(x: Tensor, dim: int) -> Tensor:
    # A column of minus infinities is -inf whatever moves: a constant in its place keeps NaN out of the gradient.
    empty = (x == -math.inf).all(dim, keepdim=True)
    value = reference.log_mean_exp(torch.where(empty, 0.0, x), dim)
    return torch.where(empty.squeeze(dim), -math.inf, value)


_LOG_MEAN_EXP: Operation[Tensor] = Operation(
    name="log_mean_exp",
    tensors=("Tensor x",),
    constants=("int dim",),
    formula=_formula,
    fake=lambda x, dim: x.new_empty(without_axis(x.shape, dim)),
    normalise=_normalise("log_mean_exp", "x"),
    batch=batch_broadcasting,
    batch_constants=_next_dim,
)


def log_mean_exp(x: Tensor, dim: int = 0, *, axis: int | None = None) -> Tensor:
    r"""Stable :math:`\log \frac1K \sum_k e^{x_k}` over one dimension, differentiable with the softmax as gradient.

    A column of minus infinities gives minus infinity with zero gradient; NaN stays NaN; plus infinity gives plus
    infinity.

    Parameters
    ----------
    x
        Any shape with at least one dimension.
    dim, axis
        The dimension to reduce, by either name; the sampling axis by default.

    Returns
    -------
    Tensor
        The shape of x without ``dim``.

    Raises
    ------
    TypeError
        If ``x`` is no floating-point tensor, or ``dim`` no integer, or both names are given.
    ValueError
        If ``dim`` is out of range or empty.

    References
    ----------
    Burda, Grosse, Salakhutdinov: Importance weighted autoencoders. ICLR 2016.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.log_mean_exp(torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), dim=0)
    tensor([1000.,    0.])
    """
    return _LOG_MEAN_EXP(x, dim if axis is None else choose_axis("log_mean_exp", dim, axis))


_WEIGHTS: Operation[Tensor] = Operation(
    name="importance_weights",
    tensors=("Tensor log_weights",),
    constants=("int dim",),
    formula=reference.importance_weights,
    fake=lambda log_weights, dim: log_weights.new_empty(log_weights.shape),
    normalise=_normalise("importance_weights", "log_weights"),
    batch=batch_broadcasting,
    batch_constants=_next_dim,
)


def importance_weights(log_weights: Tensor, dim: int = 0, *, axis: int | None = None) -> Tensor:
    """Normalised importance weights, proportional to ``exp(log_weights)`` and summing to one over ``dim``.

    Parameters
    ----------
    log_weights
        Log-weights, any shape with at least one dimension.
    dim, axis
        The sampling axis, by either name.

    Returns
    -------
    Tensor
        The shape of ``log_weights``; NaN where every log-weight is minus infinity.

    Raises
    ------
    TypeError
        If ``log_weights`` is no floating-point tensor, or ``dim`` no integer, or both names are given.
    ValueError
        If ``dim`` is out of range or empty.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.importance_weights(torch.zeros(4, 2))[0]
    tensor([0.2500, 0.2500])
    """
    return _WEIGHTS(log_weights, dim if axis is None else choose_axis("importance_weights", dim, axis))


def _ess_gradient(grad: Tensor, weights: Tensor, dim: int) -> Tensor:
    size = 1.0 / sum_over(weights.square(), dim).unsqueeze(dim)
    return 2.0 * grad.unsqueeze(dim) * size * weights * (1.0 - size * weights)


def _ess_functions(module: Any) -> Functions:
    """The native functions of the forward pass, and a backward pass made of the weights' kernel and PyTorch's."""
    weights_of = module.forward.importance_weights

    def backward(grad: Tensor, log_weights: Tensor, dim: int, needs: Sequence[bool]) -> tuple[Tensor | None]:
        if not needs[0]:
            return (None,)
        found = _ess_gradient(widen(grad), weights_of(widen(log_weights), dim), dim)
        return (found.to(log_weights.dtype),)

    def attempt_backward(grad: Tensor, log_weights: Tensor, dim: int, needs: Sequence[bool]) -> Any:
        if grad.dtype is not log_weights.dtype or not module.runs_backward(grad, log_weights):
            return NotImplemented
        return backward(grad, log_weights, dim, needs)

    name = "effective_sample_size"
    return Functions(getattr(module.attempt, name), getattr(module.forward, name), attempt_backward, backward)


_ESS: Operation[Tensor] = Operation(
    name="effective_sample_size",
    tensors=("Tensor log_weights",),
    constants=("int dim",),
    formula=reference.effective_sample_size,
    fake=lambda log_weights, dim: log_weights.new_empty(without_axis(log_weights.shape, dim)),
    functions=_ess_functions,
    normalise=_normalise("effective_sample_size", "log_weights"),
    batch=batch_broadcasting,
    batch_constants=_next_dim,
)


def effective_sample_size(log_weights: Tensor, dim: int = 0, *, axis: int | None = None) -> Tensor:
    """Effective sample size ``1 / sum(w**2)`` of the normalised weights: between 1 and the number of samples.

    Parameters
    ----------
    log_weights
        Log-weights, any shape with at least one dimension.
    dim, axis
        The sampling axis, by either name.

    Returns
    -------
    Tensor
        The shape of ``log_weights`` without ``dim``; NaN where every log-weight is minus infinity.

    Raises
    ------
    TypeError
        If ``log_weights`` is no floating-point tensor, or ``dim`` no integer, or both names are given.
    ValueError
        If ``dim`` is out of range or empty.

    References
    ----------
    Kong: A note on importance sampling using standardized weights. University of Chicago, 1992.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.effective_sample_size(torch.zeros(4))
    tensor(4.)
    """
    return _ESS(log_weights, dim if axis is None else choose_axis("effective_sample_size", dim, axis))


class LogMeanExp(RunningLogMeanExp[Tensor]):
    """Running log-mean-exp over chunks of log-weights, in memory that does not grow with their number.

    What is kept, in float64, is for each column the largest log-weight, and the sums of the weights and of their
    squares relative to it. Nothing is differentiated.

    Parameters
    ----------
    dim, axis
        The sampling axis of the chunks, by either name.

    Examples
    --------
    >>> import torch, fastvi
    >>> running = fastvi.LogMeanExp()
    >>> for _ in range(10):
    ...     running = running.update(torch.zeros(500, 3))
    >>> running.count, running.value, running.ess
    (5000, tensor([0., 0., 0.]), tensor([5000., 5000., 5000.]))
    """

    _library: ClassVar[Any] = torch

    @torch.no_grad()
    def _summarise(self, chunk: Tensor) -> Summary:
        (chunk,) = check_operands("LogMeanExp.update", ("chunk",), (chunk,))
        chunk, dim = _check_axis("LogMeanExp.update", "chunk", chunk, self.dim)
        count, wide = chunk.shape[dim], widen(chunk)
        maximum = wide.amax(dim, keepdim=True)
        relative = wide - finite_or_zero(torch, maximum)
        total = log_mean_exp(relative, dim).double().exp() * count
        effective = effective_sample_size(relative, dim).double()
        return summarise(torch, count, chunk.dtype, maximum.squeeze(dim).double(), total, effective)

    def _round(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return result.to(dtype)

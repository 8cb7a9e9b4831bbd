"""Log-mean-exp of the importance-weighted bound (Burda, Grosse, Salakhutdinov 2016), its weights, and their quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvi import reference
from fastvi._layout import plan_axis
from fastvi._running import RunningLogMeanExp, Summary
from fastvi._sizes import check_integer
from fastvi.ops._backends import kernels
from fastvi.ops._checks import check_operands
from fastvi.ops._precision import backward_in_compute_dtype, widen
from fastvi.ops._private import tracing_state
from fastvi.ops._registration import Operation, Tensors, batch_broadcasting
from fastvi.ops._rows import check_upstream
from fastvi.ops._sums import sum_over


def _check_axis(operation: str, name: str, tensor: Tensor, dim: object) -> tuple[Tensor, int]:
    """The tensor, as `check_operands` returns it, and the dimension, counted from the front."""
    (tensor,) = check_operands(operation, (name,), (tensor,))
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


def _without(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], *shape[dim + 1 :])


def _next_dim(constants: tuple[Any, ...]) -> tuple[Any, ...]:
    """``dim`` behind a mapped axis that was put in front."""
    return (constants[0] + 1,)


def _forward(x: Tensor, dim: int) -> Tensor:
    extent, shape = plan_axis("log_mean_exp", x.shape, dim)
    x = x.contiguous()
    out = x.new_empty(shape)
    kernels(x).log_mean_exp(extent, x.data_ptr(), out.data_ptr())
    return out


def _softmax(x: Tensor, dim: int, scale: Tensor | None, as_gradient: bool) -> Tensor:
    extent, shape = plan_axis("importance_weights", x.shape, dim)
    x = x.contiguous()
    out = torch.empty_like(x)
    if scale is not None:
        check_upstream("log_mean_exp", scale, shape)
        scale = scale.contiguous()
    address = 0 if scale is None else scale.data_ptr()
    kernels(x).scaled_softmax(extent, x.data_ptr(), address, as_gradient, out.data_ptr())
    return out


def _backward(grads: Tensors, tensors: tuple[Tensor], constants: tuple[int], _: object, __: Tensors) -> tuple[Tensor]:
    return (_softmax(tensors[0], constants[0], grads[0], as_gradient=True),)


def _formula(x: Tensor, dim: int) -> Tensor:
    # A column of minus infinities is -inf whatever moves: a constant in its place keeps NaN out of the gradient.
    empty = (x == -math.inf).all(dim, keepdim=True)
    value = reference.log_mean_exp(torch.where(empty, 0.0, x), dim)
    return torch.where(empty.squeeze(dim), -math.inf, value)


_LOG_MEAN_EXP = Operation(
    name="log_mean_exp",
    tensors=("Tensor x",),
    constants=("int dim",),
    forward=_forward,
    backward=_backward,
    formula=_formula,
    fake=lambda x, dim: x.new_empty(_without(x.shape, dim)),
    batch=batch_broadcasting,
    batch_constants=_next_dim,
)


def log_mean_exp(x: Tensor, dim: int = 0) -> Tensor:
    r"""Stable :math:`\log \frac1K \sum_k e^{x_k}` over one dimension, differentiable with the softmax as gradient.

    A column of minus infinities gives minus infinity with zero gradient; NaN stays NaN; plus infinity gives plus
    infinity.

    Parameters
    ----------
    x
        Any shape with at least one dimension.
    dim
        The dimension to reduce; the sampling axis by default.

    Returns
    -------
    Tensor
        The shape of x without ``dim``.

    Raises
    ------
    TypeError
        If ``x`` is no floating-point tensor, or ``dim`` no integer.
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
    result: Tensor = _LOG_MEAN_EXP(*_check_axis("log_mean_exp", "x", x, dim))
    return result


@backward_in_compute_dtype
def _weights_backward(
    grads: Tensors, tensors: tuple[Tensor], constants: tuple[int], _: object, __: Tensors
) -> tuple[Tensor]:
    (log_weights,), (dim,), (grad,) = tensors, constants, grads
    assert grad is not None
    weights = _softmax(log_weights, dim, None, as_gradient=False)
    weighted = weights * grad
    return (weighted - weights * sum_over(weighted, dim).unsqueeze(dim),)


_WEIGHTS = Operation(
    name="importance_weights",
    tensors=("Tensor log_w",),
    constants=("int dim",),
    forward=lambda log_w, dim: _softmax(log_w, dim, None, as_gradient=False),
    backward=_weights_backward,
    formula=reference.importance_weights,
    fake=lambda log_w, dim: log_w.new_empty(log_w.shape),
    batch=batch_broadcasting,
    batch_constants=_next_dim,
)


def importance_weights(log_w: Tensor, dim: int = 0) -> Tensor:
    """Normalised importance weights, proportional to ``exp(log_w)`` and summing to one over ``dim``.

    Parameters
    ----------
    log_w
        Log-weights, any shape with at least one dimension.
    dim
        The sampling axis.

    Returns
    -------
    Tensor
        The shape of ``log_w``; NaN where every log-weight is minus infinity.

    Raises
    ------
    TypeError
        If ``log_w`` is no floating-point tensor, or ``dim`` no integer.
    ValueError
        If ``dim`` is out of range or empty.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.importance_weights(torch.zeros(4, 2))[0]
    tensor([0.2500, 0.2500])
    """
    result: Tensor = _WEIGHTS(*_check_axis("importance_weights", "log_w", log_w, dim))
    return result


def _ess_forward(log_w: Tensor, dim: int) -> Tensor:
    extent, shape = plan_axis("effective_sample_size", log_w.shape, dim)
    log_w = log_w.contiguous()
    out = log_w.new_empty(shape)
    kernels(log_w).effective_sample_size(extent, log_w.data_ptr(), out.data_ptr())
    return out


@backward_in_compute_dtype
def _ess_backward(
    grads: Tensors, tensors: tuple[Tensor], constants: tuple[int], _: object, __: Tensors
) -> tuple[Tensor]:
    (log_weights,), (dim,), (grad,) = tensors, constants, grads
    assert grad is not None
    weights = _softmax(log_weights, dim, None, as_gradient=False)
    size = 1.0 / sum_over(weights.square(), dim).unsqueeze(dim)
    return (2.0 * grad.unsqueeze(dim) * size * weights * (1.0 - size * weights),)


_ESS = Operation(
    name="effective_sample_size",
    tensors=("Tensor log_w",),
    constants=("int dim",),
    forward=_ess_forward,
    backward=_ess_backward,
    formula=reference.effective_sample_size,
    fake=lambda log_w, dim: log_w.new_empty(_without(log_w.shape, dim)),
    batch=batch_broadcasting,
    batch_constants=_next_dim,
)


def effective_sample_size(log_w: Tensor, dim: int = 0) -> Tensor:
    """Effective sample size ``1 / sum(w**2)`` of the normalised weights: between 1 and the number of samples.

    Parameters
    ----------
    log_w
        Log-weights, any shape with at least one dimension.
    dim
        The sampling axis.

    Returns
    -------
    Tensor
        The shape of ``log_w`` without ``dim``; NaN where every log-weight is minus infinity.

    Raises
    ------
    TypeError
        If ``log_w`` is no floating-point tensor, or ``dim`` no integer.
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
    result: Tensor = _ESS(*_check_axis("effective_sample_size", "log_w", log_w, dim))
    return result


class LogMeanExp(RunningLogMeanExp[Tensor]):
    """Running log-mean-exp over chunks of log-weights, in memory that does not grow with their number.

    What is kept, in float64, is for each column the logarithm of the sum of the weights and the sum of the squared
    normalised weights. Nothing is differentiated.

    Parameters
    ----------
    dim
        The sampling axis of the chunks.

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
        chunk, dim = _check_axis("LogMeanExp.update", "chunk", chunk, self.dim)
        count, wide = chunk.shape[dim], widen(chunk)
        log_sum = log_mean_exp(wide, dim).double() + math.log(count)
        return Summary(count, chunk.dtype, log_sum, 1.0 / effective_sample_size(wide, dim).double())

    def _round(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        return result.to(dtype)

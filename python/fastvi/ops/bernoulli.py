"""The Bernoulli log-likelihood with logits, alone and fused with the linear layer that makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvi import reference
from fastvi._perceptron import check_head
from fastvi._sizes import check_flag
from fastvi.ops._backends import Functions, sum_over, sum_to_shape
from fastvi.ops._layers import PRODUCT_DTYPE, agree, compiles_formula, matrix_product
from fastvi.ops._operation import Operation
from fastvi.ops._patterns import row_operation
from fastvi.ops._precision import SUPPORTED_DTYPES, autocast_dtype, check_product_dtype, compute_dtype, widen
from fastvi.ops._shapes import leading_shape
from fastvi.ops._values import describe_range, has_values, range_outside_unit_interval

_LOG_PROB = row_operation("bernoulli_log_prob", reference.bernoulli_log_prob, truths=("x",))


def check_observations(operation: str, x: object) -> None:
    """Reject values outside [0, 1], NaN among them, where there are values to be looked at.

    Raises
    ------
    ValueError
        If there are any.
    """
    if not isinstance(x, Tensor) or x.dtype not in SUPPORTED_DTYPES or not has_values(x):
        return
    outside = range_outside_unit_interval(x)
    if outside is not None:
        raise ValueError(f"{operation}: x must lie in [0, 1], got {describe_range(outside)}")


def bernoulli_log_prob(x: Tensor, logits: Tensor, validate_args: bool = False) -> Tensor:
    r"""Bernoulli log-likelihood in nats, :math:`\sum_d x_d l_d - \log(1 + e^{l_d})`, over the last dimension.

    Parameters
    ----------
    x
        Observations in [0, 1], shape (..., D), or truth values.
    logits
        Shape (..., D); both broadcast, for example x (B, D) over the samples of logits (K, B, D), without a copy. An
        infinite one is certainty: the log-likelihood of what it is sure of is 0, that of anything else minus infinity.
    validate_args
        Look whether x lies in [0, 1], in one more pass over it, which on a GPU is waited for. Without it values outside
        are not looked for: what comes of them is no log-likelihood. Programs that are compiled, exported or transformed
        have no values to look at.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ, or x is to be looked at and not in [0, 1].

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.bernoulli_log_prob(torch.ones(3, 2), torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3])
    """
    if check_flag("bernoulli_log_prob", "validate_args", validate_args):
        check_observations("bernoulli_log_prob", x)
    return _LOG_PROB(x, logits)


def _linear_shape(
    h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, product_dtype: torch.dtype | None = None
) -> torch.Size:
    """The leading shape of the result, after a check of all shapes."""
    operation = "linear_bernoulli_log_prob"
    check_product_dtype(operation, product_dtype)
    check_head(operation, h, weight, bias, x)
    return leading_shape(operation, "h", h, x)


def _hidden_rows(h: Tensor, leading: Sequence[int]) -> Tensor:
    """The hidden units as a matrix with one row for each row of the result."""
    return h.expand((*leading, h.shape[-1])).reshape(math.prod(leading), h.shape[-1])


def _linear_functions(module: Any) -> Functions:
    epilogue = module.forward.bernoulli_epilogue

    def run(
        h: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        product_dtype: torch.dtype | None,
        keep_residual: bool,
    ) -> tuple[Tensor, Tensor]:
        """The log-likelihood, and x - sigmoid(logits) in the memory of the logits (meaningless if it is not kept).

        Logits of half precision would lose more than the sum over them gains: they are float32.
        """
        leading = _linear_shape(h, weight, bias, x, product_dtype)
        dtype = h.dtype
        h, weight, bias, x = widen(h), widen(weight), widen(bias), widen(x)
        logits = matrix_product(_hidden_rows(h, leading), weight.t(), product_dtype)
        out = epilogue(logits, bias, x.expand((*leading, x.shape[-1])), keep_residual)
        return out.to(dtype), logits

    def forward(
        h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, product_dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        return run(h, weight, bias, x, product_dtype, keep_residual=True)

    def attempt(h: Any, weight: Any, bias: Any, x: Any, product_dtype: Any) -> Any:
        if h is None or weight is None or x is None:
            return NotImplemented  # the general route says what is wrong
        route = module.route(h, weight, bias, x)
        if route is NotImplemented or not agree(h, (weight, bias, x)):
            return NotImplemented
        if route is None:
            return None
        return run(h, weight, bias, x, product_dtype, keep_residual=False)[0]

    def attempt_backward(grad: Tensor, *arguments: Any) -> Any:
        residual, tensors = arguments[4], arguments[:4]
        wide = compute_dtype(tensors[0].dtype)
        if not module.runs_backward(grad, *arguments[:5]) or not agree(grad, tensors) or residual.dtype is not wide:
            return NotImplemented
        return _linear_backward(grad, *arguments)

    return Functions(attempt, forward, attempt_backward, _linear_backward)


def _linear_backward(
    grad: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x: Tensor,
    residual: Tensor,
    product_dtype: torch.dtype | None,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    dtype = h.dtype
    leading = _linear_shape(h, weight, bias, x)
    expected = (math.prod(leading), weight.shape[0])
    if grad.shape != leading or residual.shape != expected:
        raise ValueError(
            f"linear_bernoulli_log_prob: gradient has shape {tuple(grad.shape)} and residual {tuple(residual.shape)}, "
            f"expected {tuple(leading)} and {expected}"
        )
    grad, h, weight, bias, x = widen(grad), widen(h), widen(weight), widen(bias), widen(x)
    scale = grad.reshape(-1, 1)
    by_h = by_weight = by_bias = by_x = None
    if product_dtype is None:
        # The upstream gradient scales rows: of the hidden units, never of the wide residual.
        if needs[0]:
            by_h = matrix_product(residual, weight).mul_(scale)
        if needs[1]:
            by_weight = matrix_product(residual.t(), _hidden_rows(h, leading) * scale)
    elif needs[0] or needs[1]:
        # Scaled before they are rounded, so that no number is rounded twice: hidden units often are of half precision.
        by_logits = (residual * scale).to(product_dtype)
        if needs[0]:
            by_h = matrix_product(by_logits, weight, product_dtype)
        if needs[1]:
            by_weight = matrix_product(by_logits.t(), _hidden_rows(h, leading), product_dtype)
    if by_h is not None:
        by_h = sum_to_shape(by_h.reshape((*leading, h.shape[-1])), h.shape)
    if needs[2]:
        by_bias = sum_over(residual, 0, weights=scale.squeeze(1))
    if needs[3]:
        by_x = by_observations(_hidden_rows(h, leading), weight, bias, x, scale.squeeze(1), leading, product_dtype)
    return tuple([None if found is None else found.to(dtype) for found in (by_h, by_weight, by_bias, by_x)])


def by_observations(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x: Tensor,
    scale: Tensor,
    leading: Sequence[int],
    product_dtype: torch.dtype | None,
) -> Tensor:
    """The gradient by x: the logits, each row of them times ``scale``."""
    logits = matrix_product(hidden, weight.t(), product_dtype)
    logits = logits if bias is None else logits.add_(bias)
    # As in the operation on logits alone: where x * logit is 0 * inf, it is zero, and so is its derivative.
    targets = x.expand((*leading, x.shape[-1])).reshape(logits.shape)
    logits.masked_fill_(logits.isinf() & (targets == (logits > 0)), 0.0)
    return sum_to_shape(logits.mul_(scale.unsqueeze(1)).reshape((*leading, x.shape[-1])), x.shape)


def _linear_formula(
    h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, product_dtype: torch.dtype | None
) -> Tensor:
    with torch.autocast(h.device.type, enabled=False):
        return reference.linear_bernoulli_log_prob(h, weight, bias, x)


def _linear_fake(
    h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, product_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    leading = _linear_shape(h, weight, bias, x, product_dtype)
    logits = h.new_empty((math.prod(leading), weight.shape[0]), dtype=compute_dtype(h.dtype))
    return h.new_empty(leading), logits


_LINEAR: Operation[Tensor] = Operation(
    name="linear_bernoulli_log_prob",
    tensors=("Tensor h", "Tensor weight", "Tensor? bias", "Tensor x"),
    constants=(PRODUCT_DTYPE,),
    formula=_linear_formula,
    fake=_linear_fake,
    functions=_linear_functions,
    num_auxiliary=1,
    check=_linear_shape,
    compiles_formula=compiles_formula,
    truths=("x",),
)


def linear_bernoulli_log_prob(
    h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, validate_args: bool = False
) -> Tensor:
    """``bernoulli_log_prob(x, h @ weight.T + bias)`` as one operation, for the last layer of a decoder.

    One matrix product, and one pass that adds the bias, sums the log-likelihood and overwrites the logits with
    ``x - sigmoid(logits)``, which is what the backward pass needs. In a region of ``torch.autocast`` the factors of the
    product have the region's dtype, and the result is float32.

    Parameters
    ----------
    h
        Hidden units, shape (..., H).
    weight, bias
        Of the linear layer: (D, H) and (D,); the bias may be None.
    x
        Observations in [0, 1], or truth values, shape (..., D); broadcasts with h, for example (B, D) with (K, B, H).
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
        If shapes do not fit or devices differ, or x is to be looked at and not in [0, 1].

    Examples
    --------
    >>> import torch, fastvi
    >>> layer = torch.nn.Linear(4, 6)
    >>> h, x = torch.zeros(5, 3, 4), torch.ones(3, 6)
    >>> fastvi.linear_bernoulli_log_prob(h, layer.weight, layer.bias, x).shape
    torch.Size([5, 3])
    """
    if check_flag("linear_bernoulli_log_prob", "validate_args", validate_args):
        check_observations("linear_bernoulli_log_prob", x)
    return _LINEAR(h, weight, bias, x, autocast_dtype(h))

"""Functions whose derivatives of every order keep their digits: log Gamma, log(1 + e^x), x log x.

PyTorch's trigamma, which its ``digamma`` is differentiated by, is off by up to 5e-10 in float64; the Hurwitz zeta
function, zeta(2, x), is the same function to rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_STIRLING = (1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360360.0, 1.0 / 156.0)
"""Coefficients of 1 / x, 1 / x^3, ... in what Stirling's formula leaves out."""
STIRLING_FROM = 16.0
"""x from which these terms are exact to rounding."""


def in_double(formula: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Return what a formula gives in float64, in the dtype of its arguments: large terms of it cancel."""
    dtype = functools.reduce(torch.promote_types, (argument.dtype for argument in arguments))
    return formula(*(argument.double() for argument in arguments)).to(dtype)


def _with_derivative(
    formula: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor]
) -> type[torch.autograd.Function]:
    """A function of one number, and its derivative, which is differentiated in turn."""

    class Function(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return formula(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            ctx.save_for_backward(inputs[0])
            ctx.save_for_forward(inputs[0])

        @staticmethod
        def backward(ctx: Any, *upstreams: Tensor) -> Tensor:
            return upstreams[0] * derivative(ctx.saved_tensors[0])

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
            return tangents[0] * derivative(ctx.saved_tensors[0])

    return Function


_LogGamma = _with_derivative(torch.lgamma, lambda x: digamma(x))
_Digamma = _with_derivative(torch.digamma, lambda x: trigamma(x))
_Trigamma = _with_derivative(lambda x: torch.special.zeta(2.0, x), lambda x: -2.0 * torch.special.zeta(3.0, x))
_Softplus = _with_derivative(lambda x: x.clamp_min(0.0) + (-x.abs()).exp().log1p(), torch.sigmoid)


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x)."""
    result: Tensor = _Softplus.apply(x)  # type: ignore[no-untyped-call, unused-ignore]
    return result


def log_gamma(x: Tensor) -> Tensor:
    """Return log Gamma(x), x > 0."""
    result: Tensor = _LogGamma.apply(x)  # type: ignore[no-untyped-call, unused-ignore]
    return result


def digamma(x: Tensor) -> Tensor:
    """Return the derivative of log Gamma."""
    result: Tensor = _Digamma.apply(x)  # type: ignore[no-untyped-call, unused-ignore]
    return result


def trigamma(x: Tensor) -> Tensor:
    """Return the second derivative of log Gamma."""
    result: Tensor = _Trigamma.apply(x)  # type: ignore[no-untyped-call, unused-ignore]
    return result


def inverse_digamma_start(y: Tensor) -> Tensor:
    """Return about the x for which digamma(x) = y (Minka 2000, "Estimating a Dirichlet distribution", appendix C)."""
    euler = 0.5772156649015329
    return torch.where(y >= -2.22, y.clamp_max(700.0).exp() + 0.5, -1.0 / (y.clamp_max(-2.22) + euler))


def minus_x_log_x(x: Tensor) -> Tensor:
    """Return -x log x, which is 0 at 0, where its slope is infinite."""
    result: Tensor = torch.special.entr(x)
    return result


def stirling_remainder(x: Tensor) -> Tensor:
    """Return log Gamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2), about 1 / 12 x, for x > 0.

    Log-densities are written with it, because their large terms then cancel on paper and not in floats (Loader 2000,
    "Fast and accurate computation of binomial probabilities").
    """
    large = x >= STIRLING_FROM
    small = torch.where(large, 1.0, x)
    direct = log_gamma(small) - (small - 0.5) * small.log() + small - _HALF_LOG_TAU
    return torch.where(large, _stirling_series(torch.where(large, x, STIRLING_FROM)), direct)


def _stirling_series(x: Tensor) -> Tensor:
    inverse = 1.0 / x
    square, terms = inverse.square(), torch.zeros_like(x)
    for coefficient in reversed(_STIRLING):
        terms = terms * square + coefficient
    return terms * inverse


def relative_excess(deviation: Tensor) -> Tensor:
    """Return (1 + d) log(1 + d) - d, d > -1; times the mean, how unlikely a count is that deviates by this share."""
    return (1.0 + deviation) * deviation.log1p() - deviation


def stirling_slope(x: Tensor) -> Tensor:
    """Return digamma(x) - log x + 1 / 2 x, the derivative of `stirling_remainder`, for x >= ``STIRLING_FROM``."""
    square, terms = x.square().reciprocal(), torch.zeros_like(x)
    for order in reversed(range(len(_STIRLING))):
        terms = terms * square - (2 * order + 1) * _STIRLING[order]
    return terms * square


_STEPS = 10


def digamma_difference(x: Tensor, more: Tensor) -> Tensor:
    """Return digamma(x + more) - digamma(x) for x > 0 and more >= 0, a sum of terms that do not cancel.

    Steps of 1 lead to numbers for which the asymptotic series is exact to rounding (Abramowitz and Stegun 1964, 6.3.6
    and 6.3.18), and there each of its terms is a difference by log1p and expm1.
    """
    steps = torch.zeros_like(x)
    for step in range(_STEPS):
        # One after the other: the product of two numbers near 0 may be 0.
        steps = steps + more / (x + step + more) / (x + step)
    start = x + _STEPS
    log_ratio = (more / start).log1p()
    square, power, series = start.square().reciprocal(), torch.ones_like(start), torch.zeros_like(start)
    for order, coefficient in enumerate(_STIRLING):
        power = power * square
        series = series - (2 * order + 1) * coefficient * power * torch.expm1(-2.0 * (order + 1) * log_ratio)
    return steps + (log_ratio + 0.5 * more / (start * (start + more)) + series)

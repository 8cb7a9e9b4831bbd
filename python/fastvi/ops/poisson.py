"""The Poisson log-likelihood of counts."""

from __future__ import annotations

from torch import Tensor

from fastvi import reference
from fastvi.ops._patterns import row_operation
from fastvi.ops._values import check_counts

_LOG_PROB = row_operation("poisson_log_prob", reference.poisson_log_prob)


def poisson_log_prob(x: Tensor, log_rate: Tensor, validate_args: bool = False) -> Tensor:
    r"""Poisson log-likelihood in nats, summed over the last dimension.

    .. math:: \sum_d x_d l_d - e^{l_d} - \log \Gamma(x_d + 1)

    Parameters
    ----------
    x
        Counts, or any numbers from 0 on, shape (..., D).
    log_rate
        The logarithm l of the rate, shape (..., D); both broadcast, for example x (B, D) over the samples of log_rate
        (K, B, D), without a copy. Minus infinity is the rate 0: the log-likelihood of x = 0 is then 0, that of any
        other x minus infinity.
    validate_args
        Look whether x is below 0 anywhere, in one more pass over it, which on a GPU is waited for. Without it such
        values are not looked for: NaN comes of them. Programs that are compiled, exported or transformed have no values
        to look at.

    Returns
    -------
    Tensor
        Shape (...). The derivative by x is that of the formula, :math:`l - \psi(x + 1)`.

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ, or x is to be looked at and below 0 or NaN.

    References
    ----------
    Abramowitz, Stegun: Handbook of mathematical functions. 1964, sections 6.1 and 6.3 (log-gamma and digamma).

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.poisson_log_prob(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2))
    tensor([-2., -2.])
    """
    check_counts("poisson_log_prob", x, None, validate_args)
    return _LOG_PROB(x, log_rate)

"""The diagonal Laplace distribution."""

from __future__ import annotations

from torch import Tensor

from fastvi import reference
from fastvi.ops._patterns import row_operation

_LOG_PROB = row_operation("laplace_log_prob", reference.laplace_log_prob)


def laplace_log_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""Log density of a diagonal Laplace distribution in nats, summed over the last dimension.

    .. math:: -\sum_d |x_d - m_d| e^{-s_d} + s_d + \log 2

    Parameters
    ----------
    x
        Observations, shape (..., D).
    loc, log_scale
        The median m and the logarithm s of the scale, shape (..., D); all three broadcast, for example (K, B, D) with
        (B, D), without being copied.

    Returns
    -------
    Tensor
        Shape (...). At x = m the derivatives by x and m are 0.

    Raises
    ------
    TypeError
        If an argument is not a floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ.

    References
    ----------
    Kotz, Kozubowski, Podgorski: The Laplace distribution and generalizations. 2001, section 2.1.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.laplace_log_prob(torch.zeros(2, 3), torch.zeros(3), torch.zeros(3))
    tensor([-2.0794, -2.0794])
    """
    return _LOG_PROB(x, loc, log_scale)

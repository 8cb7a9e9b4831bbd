"""The continuous Bernoulli distribution: the likelihood of values in [0, 1], such as grey pixels."""

from __future__ import annotations

from torch import Tensor

from fastvi import reference
from fastvi._sizes import check_flag
from fastvi.ops._patterns import row_operation
from fastvi.ops.bernoulli import check_observations

_LOG_PROB = row_operation("continuous_bernoulli_log_prob", reference.continuous_bernoulli_log_prob)


def continuous_bernoulli_log_prob(x: Tensor, logits: Tensor, validate_args: bool = False) -> Tensor:
    r"""Continuous Bernoulli log density in nats, over the last dimension.

    .. math:: \sum_d x_d l_d - \log(1 + e^{l_d}) + \log C(l_d), \quad C(l) = \frac{l}{\tanh(l / 2)}, \; C(0) = 2

    The constant makes a density on [0, 1] of the Bernoulli likelihood, which is none there: without it grey values are
    fitted by logits that are too small. Value and gradient are accurate for all logits, those near 0 included.

    Parameters
    ----------
    x
        Observations in [0, 1], shape (..., D).
    logits
        Shape (..., D); both broadcast, for example x (B, D) over the samples of logits (K, B, D), without a copy. An
        infinite one is certainty: the log density is infinite at what it is sure of, minus infinity elsewhere.
    validate_args
        Look whether x lies in [0, 1], as :func:`fastvi.bernoulli_log_prob` does.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument is not a floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ, or x is to be looked at and not in [0, 1].

    References
    ----------
    Loaiza-Ganem, Cunningham: The continuous Bernoulli: fixing a pervasive error in variational autoencoders. NeurIPS
    2019.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.continuous_bernoulli_log_prob(torch.full((2, 3), 0.25), torch.zeros(3))  # uniform
    tensor([0., 0.])
    """
    if check_flag("continuous_bernoulli_log_prob", "validate_args", validate_args):
        check_observations("continuous_bernoulli_log_prob", x)
    return _LOG_PROB(x, logits)

"""Diagonal Gaussians: divergence, log density and entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi import reference
from fastvi.ops._checks import check_number, number_tensor
from fastvi.ops._patterns import row_operation


def complete_prior(prior_mean: Tensor | None, prior_logvar: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A prior with one parameter given gets the standard normal's other one."""
    if prior_mean is None and prior_logvar is not None:
        prior_mean = prior_logvar.new_zeros(1)
    elif prior_logvar is None and prior_mean is not None:
        prior_logvar = prior_mean.new_zeros(1)
    return prior_mean, prior_logvar


def check_prior(operation: str, prior_mean: Tensor | None, prior_logvar: Tensor | None) -> None:
    """Reject half a prior.

    Raises
    ------
    ValueError
        If one of the two is None.
    """
    if (prior_mean is None) is not (prior_logvar is None):
        raise ValueError(f"{operation}: expected both prior_mean and prior_logvar, or neither")


def _normalise_kl(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None, free_bits: object
) -> tuple[Any, ...]:
    return mean, logvar, *complete_prior(prior_mean, prior_logvar), check_number("kl_normal", "free_bits", free_bits)


def _check_kl(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None, free_bits: float
) -> None:
    check_prior("kl_normal", prior_mean, prior_logvar)
    if not free_bits >= 0.0:
        raise ValueError(f"kl_normal: free_bits is {free_bits}, expected a non-negative number")


def _kl_formula(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None, free_bits: float
) -> Tensor:
    parameters = (mean, logvar, prior_mean, prior_logvar)
    if not (torch.compiler.is_compiling() and free_bits > 0.0):
        return reference.kl_normal(*parameters, free_bits)
    # To clamp by another number would be another program; by another tensor it is the same.
    columns: list[Any] = [None if tensor is None else tensor.unsqueeze(-1) for tensor in parameters]
    each = reference.kl_normal(*columns)
    return torch.clamp(each, min=number_tensor(free_bits, each.dtype, each.device)).sum(-1)


_KL = row_operation("kl_normal", _kl_formula, normalise=_normalise_kl, check=_check_kl, usual_numbers=(0.0,))


def kl_normal(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    free_bits: float = 0.0,
) -> Tensor:
    r"""KL divergence of diagonal Gaussians in nats, summed over the last dimension.

    .. math:: \tfrac12 \sum_d (\mu_d - m_d)^2 e^{-s_d} + e^{\lambda_d - s_d} - 1 - (\lambda_d - s_d)

    for q = N(mean :math:`\mu`, logvar :math:`\lambda`) and p = N(prior_mean m, prior_logvar s). The exponential is
    taken without cancellation, so that small divergences keep their digits.

    Parameters
    ----------
    mean, logvar
        Shape (..., D); they broadcast.
    prior_mean, prior_logvar
        The prior, broadcast against the others; N(0, 1) where not given.
    free_bits
        Nats below which a dimension's divergence is clamped, and sends no gradient (Kingma et al. 2016).

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast, devices differ, or ``free_bits`` is negative.

    References
    ----------
    Kingma, Welling: Auto-encoding variational Bayes. ICLR 2014, appendix B.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.kl_normal(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([1.5000, 1.5000])
    """
    return _KL(mean, logvar, prior_mean, prior_logvar, free_bits)


_LOG_PROB = row_operation("normal_log_prob", reference.normal_log_prob)


def normal_log_prob(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    r"""Log density of a diagonal Gaussian in nats, summed over the last dimension.

    .. math:: -\tfrac12 \sum_d (x_d - \mu_d)^2 e^{-\lambda_d} + \lambda_d + \log 2\pi

    Parameters
    ----------
    x, mean, logvar
        Shape (..., D); they broadcast, for example (K, B, D) with (B, D), without being copied.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.normal_log_prob(torch.zeros(5, 1, 2), torch.zeros(3, 2), torch.zeros(3, 2)).shape
    torch.Size([5, 3])
    """
    return _LOG_PROB(x, mean, logvar)


_ENTROPY = row_operation("normal_entropy", reference.normal_entropy)


def normal_entropy(logvar: Tensor) -> Tensor:
    r"""Entropy of a diagonal Gaussian in nats, :math:`\tfrac12 \sum_d \lambda_d + 1 + \log 2\pi`.

    Parameters
    ----------
    logvar
        Shape (..., D).

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If ``logvar`` is no floating-point tensor.
    ValueError
        If ``logvar`` has no dimension.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.normal_entropy(torch.zeros(2))
    tensor(2.8379)
    """
    return _ENTROPY(logvar)

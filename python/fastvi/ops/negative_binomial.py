"""The negative binomial log-likelihood of counts, alone and with zeros that a gate adds."""

from __future__ import annotations

from torch import Tensor

from fastvi import reference
from fastvi.ops._patterns import row_operation
from fastvi.ops._values import check_counts

_LOG_PROB = row_operation("negative_binomial_log_prob", reference.negative_binomial_log_prob)
_ZERO_INFLATED_LOG_PROB = row_operation(
    "zero_inflated_negative_binomial_log_prob", reference.zero_inflated_negative_binomial_log_prob
)


def negative_binomial_log_prob(x: Tensor, total_count: Tensor, logits: Tensor, validate_args: bool = False) -> Tensor:
    r"""Negative binomial log-likelihood in nats, summed over the last dimension.

    .. math:: \sum_d \log \frac{\Gamma(x_d + r_d)}{\Gamma(r_d) \, \Gamma(x_d + 1)}
        + r_d \log \sigma(-l_d) + x_d \log \sigma(l_d)

    The parameters are those of ``torch.distributions.NegativeBinomial(total_count, logits=logits)``: mean
    :math:`\mu = r e^l`, variance :math:`\mu + \mu^2 / r`. Where the mean is what one has, ``logits = log(mu / r)``.

    Parameters
    ----------
    x
        Counts, or any numbers from 0 on, shape (..., D).
    total_count
        The positive number r of failures, an integer or not, shape (..., D).
    logits
        Those of success, l, shape (..., D); all three broadcast, for example x (B, D) over the samples of logits
        (K, B, D) and r of shape (D,), without a copy. Minus infinity is certain failure: the log-likelihood of x = 0
        is then 0, that of any other x minus infinity.
    validate_args
        Look whether x is below 0 or total_count not above 0 anywhere, in one more pass over them, which on a GPU is
        waited for. Without it such values are not looked for: NaN comes of those below 0. Programs that are compiled,
        exported or transformed have no values to look at.

    Returns
    -------
    Tensor
        Shape (...). The rounding error of a term is at most some ten units in the last place of the largest of
        :math:`a \log(1 + b / a) + a` (a and b: the smaller and the larger of x and r), :math:`|r \log \sigma(-l)|`,
        :math:`|x \log \sigma(l)|`, :math:`\log(1 + x / r)` and 1. The logarithms of the gamma function, which cancel,
        are not among these: with x or r of a million they are of the size of ten million. As r grows the result tends
        to the Poisson log-likelihood, by x^2 / r. The differences of digamma functions in the gradients lose no digits
        either.

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ, or x or total_count is to be looked at and out of range or NaN.

    References
    ----------
    DiDonato, Morris: Algorithm 708: significant digit computation of the incomplete beta function ratios. 1992
    (differences of log-gamma functions without cancellation).

    Examples
    --------
    >>> import torch, fastvi
    >>> x, total_count, logits = torch.tensor([0.0, 3.0]), torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 1.0])
    >>> torch.distributions.NegativeBinomial(total_count, logits=logits).log_prob(x).sum()
    tensor(-3.3861)
    >>> fastvi.negative_binomial_log_prob(x, total_count, logits)
    tensor(-3.3861)
    """
    check_counts("negative_binomial_log_prob", x, total_count, validate_args)
    return _LOG_PROB(x, total_count, logits)


def zero_inflated_negative_binomial_log_prob(
    x: Tensor, total_count: Tensor, logits: Tensor, gate_logits: Tensor, validate_args: bool = False
) -> Tensor:
    r"""Log-likelihood of counts that are 0 more often than a negative binomial's, in nats, over the last dimension.

    With :math:`\pi = \sigma(g)`, the probability of an extra zero, and the likelihood :math:`p(x)` of
    :func:`fastvi.negative_binomial_log_prob`

    .. math:: \sum_d \begin{cases} \log(\pi_d + (1 - \pi_d) \, p(0)) & x_d = 0 \\
        \log(1 - \pi_d) + \log p(x_d) & \text{otherwise} \end{cases}

    which is Pyro's ``ZeroInflatedNegativeBinomial(total_count, logits=logits, gate_logits=gate_logits)``, and scVI's
    with its ``zi_logits``.

    Parameters
    ----------
    x, total_count, logits
        As those of :func:`fastvi.negative_binomial_log_prob`.
    gate_logits
        The logits g of an extra zero, shape (..., D); all four broadcast. Infinite ones are certainty.
    validate_args
        As there.

    Returns
    -------
    Tensor
        Shape (...). The derivative by x at x = 0, where the formula leaps, is 0.

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ, or x or total_count is to be looked at and out of range or NaN.

    References
    ----------
    Lopez, Regier, Cole, Jordan, Yosef: Deep generative modeling for single-cell transcriptomics. 2018.

    Examples
    --------
    >>> import torch, fastvi
    >>> x, total_count, logits = torch.tensor([0.0, 3.0]), torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 1.0])
    >>> never = torch.full((2,), -torch.inf)
    >>> fastvi.zero_inflated_negative_binomial_log_prob(x, total_count, logits, gate_logits=never)
    tensor(-3.3861)
    """
    check_counts("zero_inflated_negative_binomial_log_prob", x, total_count, validate_args)
    return _ZERO_INFLATED_LOG_PROB(x, total_count, logits, gate_logits)

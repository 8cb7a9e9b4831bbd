"""The categorical log-likelihood of a vector of classes, such as pixels of 256 values."""

from __future__ import annotations

import torch
from torch import Tensor


def categorical_log_prob(x: Tensor, logits: Tensor, validate_args: bool = False) -> Tensor:
    r"""Categorical log-likelihood in nats, :math:`\sum_d l_{d, x_d} - \log \sum_c e^{l_{d, c}}`.

    It is made of PyTorch's ``log_softmax`` and ``gather``, and composes with all that these do; x is not copied for the
    samples over which it broadcasts.

    Parameters
    ----------
    x
        Classes from 0 to C - 1, of an integer dtype, shape (..., D).
    logits
        Shape (..., D, C); all axes but the last broadcast with x, for example x (B, D) over the samples of logits
        (K, B, D, C). The logits need not be normalised.
    validate_args
        Look first whether x is in range, in one more pass over it, which on a GPU is waited for, to say so in one line.
        Without it PyTorch refuses such a class in words of its own, on a GPU by the device's assertion.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If x is not a tensor of integers, or the logits are not floating-point.
    ValueError
        If shapes do not broadcast, or x is to be looked at and out of range.
    RuntimeError
        From PyTorch, if x is out of range and was not looked at.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import categorical_log_prob
    >>> categorical_log_prob(torch.tensor([[0, 3], [1, 1]]), torch.zeros(5, 2, 2, 4)).shape
    torch.Size([5, 2])
    """
    kind = "categorical_log_prob"
    if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype is torch.bool:
        raise TypeError(f"{kind}: x must be a tensor of integers, got {_describe(x)}")
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"{kind}: logits must be a floating-point tensor, got {_describe(logits)}")
    if x.dim() < 1 or logits.dim() < 2:
        raise ValueError(
            f"{kind}: x must have the shape (..., D) and logits (..., D, C), got {tuple(x.shape)} and "
            f"{tuple(logits.shape)}"
        )
    try:
        shape = torch.broadcast_shapes(x.shape, logits.shape[:-1])
    except RuntimeError as error:
        raise ValueError(
            f"{kind}: x must broadcast with all axes of logits but the last, got {tuple(x.shape)} and "
            f"{tuple(logits.shape)}"
        ) from error
    classes = logits.shape[-1]
    if validate_args and x.numel() > 0 and not (x.min() >= 0 and x.max() < classes):
        raise ValueError(f"{kind}: x must lie in 0 to {classes - 1}, got {x.min().item()} to {x.max().item()}")
    log_probabilities = torch.log_softmax(logits, -1).expand(*shape, classes)
    return log_probabilities.gather(-1, x.long().expand(shape).unsqueeze(-1)).squeeze(-1).sum(-1)


def _describe(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
